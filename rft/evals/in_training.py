"""An evaluation during training: the record that it leaves, and the watch over what it says.

Called by the patched ``PPOTrainer`` in the controller process. `write` leaves ``eval_stepN_<kind>.json`` beside the
answers: a result as the evaluation programs write them (rft/evals/results.py), so that `rft compare` takes both.
`EvaluationWatch` asks the rules of rft/evals/watch.py after each evaluation; what they say goes to the log and into
``training_metrics.jsonl`` (``"event": "warning"``), and under ``--early_stop`` a fall ends the run, which then saves.
"""

import datetime
import logging
import os
import threading
import time
from pathlib import Path

from rft import evaluation, metrics_file, runs, step_log
from rft.data import chat_rows
from rft.errors import RftError
from rft.evals import adapters, grade, models, modes, of_run, prompts, results, sets, watch

logger = logging.getLogger(__name__)


class EvaluationWatch:
    """stop: an evaluation says that the run is to end.

    args  the run's arguments; tokenizer: the policy's
    """

    def __init__(self, args, tokenizer):
        self.args, self.tokenizer, self.stop = args, tokenizer, False
        self._digest: str | None = None
        self._hashing = threading.Thread(target=self._hash, name="model-digest", daemon=True)
        if getattr(args, "eval_dataset", None):
            self._hashing.start()  # 65 GB take a minute, and the engines' start as long

    def _hash(self) -> None:
        name = self.args.engine_pretrain or self.args.pretrain
        try:
            self._digest = models.digest(models.locate(name), results.folder() / "weights.json")
        except (RftError, OSError) as err:
            logger.warning("the evaluations' records will lack the model's digest: %s", err)

    def write(self, step: int, generate_kwargs: dict) -> Path:
        """The result of one pass, whose answers lie in ``eval_stepN_<kind>.jsonl``; generate_kwargs: how they came."""
        if self._hashing.ident is not None:
            self._hashing.join()
        kind = evaluation.file_kind(generate_kwargs["temperature"])
        path = Path(metrics_file.samples_folder()) / f"eval_step{step}_{kind}.json"
        records = runs.metrics_lines(path.with_suffix(".jsonl"))
        problems = [of_run.problem(record, path.with_suffix(".jsonl"), at) for at, record in enumerate(records, 1)]
        name, data = self._data(problems)
        described = self._settings(step, name, data, records, generate_kwargs)
        called, answers = described["adapter"] or "base", path.with_suffix(".jsonl").name
        results.save(results.of(called, step, described, problems, grade.version(), answers), path)
        return path

    def _data(self, problems: list[dict]) -> tuple[str, str]:
        """Name and digest of the set; ids and labels become those of its file, where that is one of ours."""
        files = [Path(of_run.path_of(name)) for name in self.args.eval_dataset.split(",")]
        try:
            loaded = [sets.load(str(path), path.parent) for path in files]
        except RftError:  # a set on the hub, or labels for another grader (tasks of the code reward)
            return self.args.eval_dataset, sets.content_digest([(p["id"], p["label"]) for p in problems])
        known = [problem for one in loaded for problem in one.problems]
        if len(known) == len(problems):
            for problem, of_file in zip(problems, known, strict=True):
                problem["id"], problem["label"] = of_file.id, of_file.label
        digest = loaded[0].sha256 if len(loaded) == 1 else sets.content_digest([one.sha256 for one in loaded])
        return "+".join(one.name for one in loaded), digest

    def _settings(self, step: int, name: str, data: str, records: list[dict], asked: dict) -> dict:
        from rft.evals import vllm_engine

        temperature, n, args = asked["temperature"], asked["n_samples_per_prompt"], self.args
        ids = [self.tokenizer(r["prompt"], add_special_tokens=False)["input_ids"] for r in records]
        adapter, digest = self._adapter(step)
        return {
            "mode": modes.name(temperature, n),
            "temperature": temperature,
            "top_p": asked.get("top_p", 1.0),
            "n": n,
            "max_tokens": asked["max_new_tokens"],
            "seed": None if temperature == 0 else args.seed if args.rollout_seed == "request" else "the engine's",
            "data_set": name,
            "data_sha256": data,
            "n_problems": len(records),
            "reasoning_effort": None,
            "input_template": args.input_template,
            "prompt_date": (chat_rows.pinned_date() or datetime.date.today()).isoformat(),
            "chat_template": prompts.template_digest(self.tokenizer) if self.tokenizer.chat_template else None,
            "prompts_sha256": prompts.ids_digest(ids),
            "engine": vllm_engine.version(),
            "model": args.pretrain,
            "model_digest": self._digest,
            "adapter": adapter,
            "adapter_digest": digest,
            "lora_apply": args.lora_apply if adapter else None,
        }

    def _adapter(self, step: int) -> tuple[str | None, str | None]:
        """Name and digest of what is evaluated; before the first update the adapter is all zero, the base alone.

        The digest is the checkpoint's of this step where one was saved, else that of the sync's frame, marked so.
        """
        if step == 0:
            return None, None
        checkpoint = Path(self.args.ckpt_path) / f"global_step{step}_hf"
        if adapters.is_adapter(checkpoint):
            return str(checkpoint), adapters.read(checkpoint).digest
        syncs = runs.metrics_lines(Path(metrics_file.folder()) / "sync_log.jsonl")
        digests = syncs[-1].get("digests") if syncs else None
        return f"step {step}", f"frame {' '.join(digests)}" if digests else None

    def check(self, step: int) -> None:
        """After the evaluation at `step`, all its passes: greedy ones are judged where there are any."""
        found = [result for result in _written(step) if result["settings"]["data_set"]]
        judged = [r for r in found if r["settings"]["mode"] == modes.GREEDY] or found
        if not judged:
            return
        name = f"{judged[-1]['settings']['data_set']} {judged[-1]['settings']['mode']}"
        falls = watch.warning(judged, name)
        training = [
            (line["step"], line["correctness"])
            for line in runs.metrics_lines(Path(metrics_file.folder()) / step_log.FILE)
            if line.get("event") == "train" and isinstance(line.get("correctness"), int | float)
        ]
        said = [text for text in (falls, watch.diverging(judged, training, name)) if text]
        if said:
            record = {"event": "warning", "time": time.time(), "step": step, "texts": said}
            metrics_file.append(os.path.join(metrics_file.folder(), step_log.FILE), record)
            for text in said:
                logger.warning("step %d: %s", step, text)
        if falls and self.args.early_stop:
            self.stop = True
            logger.warning("step %d: --early_stop ends the run here; the best checkpoint is an earlier one", step)


def _written(step: int) -> list[dict]:
    """The results of this run up to `step`, by step. A damaged one is left out: it only serves the watch."""
    found = []
    for path in Path(metrics_file.samples_folder()).glob("eval_step*.json"):
        match = of_run.FILE.fullmatch(path.name + "l")
        if match and int(match[1]) <= step:
            try:
                found.append(results.load(path))
            except RftError as err:
                logger.warning("left out of the watch: %s", err)
    return sorted(found, key=lambda result: result["step"])

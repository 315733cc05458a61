"""From models, sets and modes to results: what the programs share.

`evaluate` checks everything before an engine starts, looks up what is on disk, starts one engine for each model (and
adapter shape) that misses samples, and returns the results in the order asked for. Main thread.
"""

import contextlib
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rft.errors import RftError
from rft.evals import adapters, models, prompts, records, results, settings, vllm_engine, work
from rft.evals.bar import Bar
from rft.evals.modes import Mode
from rft.evals.sets import EvalSet


@dataclass(frozen=True)
class Policy:
    """What is evaluated: a model, alone or with an adapter. name: in tables; step: of the checkpoint, None if none."""

    name: str
    model: str
    adapter: adapters.Adapter | None = None
    step: int | None = None


@dataclass(frozen=True)
class Options:
    """The rest; see rft/evals/options.py for the flags."""

    max_tokens: int
    seed: int = 42
    effort: str | None = None
    template: str | None = None
    prompt_date: str | None = None
    lora_apply: str = "sidepath"
    engine_model: str | None = None
    tp_size: int = 1
    memory: float = 0.9
    eager: bool = False
    verbose: bool = False
    quiet: bool = False


@dataclass
class _Model:
    folder: Path
    engine_folder: Path
    digest: str
    tokenizer: object
    config: object


def evaluate(
    policies: Sequence[Policy],
    sets: Sequence[EvalSet],
    modes: Sequence[Mode],
    options: Options,
    start: Callable | None = None,
) -> list[dict]:
    """One result for each policy, set and mode, in that nesting; see rft/evals/results.py.

    start   coroutine function (engine folder, adapters' shape or None, lora_apply, tp_size, max_model_len, …) ->
            Engine; vLLM by default
    raises  RftError: whatever is wrong; samples that were made are kept
    """
    where = results.folder()
    if options.engine_model is not None and len({policy.model for policy in policies}) > 1:
        raise RftError(
            f"--engine_model {options.engine_model}: weights for one model, several are given; one at a time"
        )
    known = {policy.model: _model(policy.model, options, where) for policy in policies}
    _check_adapters(policies, known, options)
    with contextlib.ExitStack() as files:
        jobs: dict[str, tuple[Policy, work.Job]] = {}  # by digest: what is the same is generated once
        keys = []
        for policy, one, mode in itertools.product(policies, sets, modes):
            job_settings, rendered = _settings(policy, known[policy.model], one, mode, options)
            key = settings.digest(job_settings)
            keys.append((policy, key))
            if key not in jobs:
                path = results.stem(job_settings, where).with_suffix(".jsonl")
                samples = files.enter_context(records.open_samples(path, job_settings))
                name = f"{policy.name} {one.name} {mode.name}"
                job = work.Job(name, policy.adapter, one, mode, rendered, samples, options.max_tokens, options.seed)
                job.find_missing()
                jobs[key] = (policy, job)
                for remark in samples.remarks:
                    print(remark, file=sys.stderr)
        _generate(list(jobs.values()), known, options, start or vllm_engine.start)
        made = []
        for policy, key in keys:
            job = jobs[key][1]
            result = results.make(policy.name, policy.step, job.samples, job.set, job.prompts.texts)
            results.save(result, job.samples.path.with_suffix(".json"))
            made.append(result)
    return made


def _model(name: str, options: Options, where: Path) -> _Model:
    from transformers import AutoConfig

    folder = models.locate(name)
    loaded = models.engine_folder(folder, options.engine_model)
    try:
        config = AutoConfig.from_pretrained(loaded)
    except (OSError, ValueError, KeyError) as err:
        raise RftError(
            f"{loaded / 'config.json'}: {str(err).splitlines()[0]}; give a model that transformers knows"
        ) from err
    digest = models.digest(loaded, where / "weights.json")
    return _Model(folder, loaded, digest, models.tokenizer(folder), config)


def _check_adapters(policies: Sequence[Policy], known: dict[str, _Model], options: Options) -> None:
    """Every adapter fits its base, before an engine is started for any."""
    for adapter, model in {p.adapter.digest: (p.adapter, p.model) for p in policies if p.adapter}.values():
        try:
            adapters.tensors(adapter, known[model].config, options.tp_size)
        except AttributeError as err:
            raise RftError(
                f"{adapter.path}: {known[model].folder} has no attention like gpt-oss's ({err}); merge it"
            ) from err


def _settings(
    policy: Policy, model: _Model, one: EvalSet, mode: Mode, options: Options
) -> tuple[dict, prompts.Rendered]:
    day = prompts.date(options.prompt_date)
    rendered = prompts.render(one, model.tokenizer, options.effort, options.template, day)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit and rendered.longest + options.max_tokens > limit:
        what = f"{rendered.longest} tokens of the longest prompt of {one.name} + --max_tokens {options.max_tokens}"
        raise RftError(f"{what} exceed the model's {limit}; lower --max_tokens")
    adapter = policy.adapter
    return {
        "mode": mode.name,
        "temperature": mode.temperature,
        "top_p": mode.top_p,
        "n": mode.n,
        "max_tokens": options.max_tokens,
        "seed": options.seed if mode.temperature > 0 else None,
        "data_set": one.name,
        "data_sha256": one.sha256,
        "n_problems": len(one.problems),
        "reasoning_effort": options.effort,
        "input_template": options.template,
        "prompt_date": day.isoformat(),
        "chat_template": prompts.template_digest(model.tokenizer),
        "prompts_sha256": rendered.digest,
        "engine": vllm_engine.version(),
        "model": policy.model,
        "model_digest": model.digest,
        "adapter": str(adapter.path) if adapter else None,
        "adapter_digest": adapter.digest if adapter else None,
        "lora_apply": options.lora_apply if adapter else None,
    }, rendered


def _generate(
    planned: list[tuple[Policy, work.Job]], known: dict[str, _Model], options: Options, start: Callable
) -> None:
    """One engine after the other, for each model and each shape of its adapters; the base goes with the first."""
    groups: dict[str, dict[adapters.Shape | None, list[work.Job]]] = {}
    for policy, job in planned:
        shape = policy.adapter.shape if policy.adapter else None
        groups.setdefault(policy.model, {}).setdefault(shape, []).append(job)
    for model, shapes in groups.items():
        alone = shapes.pop(None, [])
        if alone:
            shared = next(iter(shapes), None)
            shapes[shared] = alone + shapes.get(shared, [])
        for shape, jobs in shapes.items():
            longest = max(job.prompts.longest for job in jobs) + options.max_tokens
            launch = partial(
                start,
                known[model].engine_folder,
                shape,
                options.lora_apply,
                options.tp_size,
                longest,
                options.memory,
                options.eager,
                options.verbose,
            )
            state = [
                (
                    job.name,
                    len(job.samples.have),
                    sum(r["correct"] for r in job.samples.have.values()),
                    len(job.set.problems) * job.mode.n,
                )
                for job in jobs
            ]
            if any(job.missing for job in jobs):
                decode = partial(known[model].tokenizer.decode, skip_special_tokens=False)
                bar = Bar(state, options.quiet)
                with bar.shown():
                    work.run(launch, jobs, decode, bar.seen, bar.begin)

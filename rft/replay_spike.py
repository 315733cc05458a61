"""``rft replay-spike FILE``: the loss and gradient of a dumped spike once more, and the tokens that drive it.

FILE is a dump of spikes/ (any rank's; those of the other ranks lie beside it) or spike_log.jsonl, of which the last
step with a dump is taken. Prints the step's gradient norm beside the one logged, each micro-batch's share, and the
tokens that pull hardest, with their log-probs from the replay, the trainer, the old policy and the rollout.
"""

import argparse
import contextlib
import json
import math
import sys
from pathlib import Path

from rft.errors import RftError

AGREES = 0.01  # relative difference of the norms that bf16 and another order of summation explain


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="rft replay-spike", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("file", type=Path, metavar="FILE", help="spike_log.jsonl, or a dump of spikes/")
    made.add_argument("--step", type=int, help="optimizer step of the log (default: the last with a dump)")
    made.add_argument("--pretrain", help="the base model, where it lies elsewhere than in the run")
    made.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    made.add_argument("--tokens", type=int, default=10, help="tokens to show (default: 10)")
    made.add_argument(
        "--measure", type=int, default=0, metavar="N", help="measure the first N tokens' own gradients, a pass each"
    )
    made.add_argument("--gradient-checkpointing", action="store_true", help="less memory, a third more time")
    made.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    return made


def find_dump(path: Path, step: int | None) -> Path:
    """The dump that FILE names. RftError where the log has none, says that it could not be written, or is no log."""
    if path.suffix != ".jsonl":
        return path
    try:
        lines = path.read_bytes().splitlines()
    except OSError as err:
        raise RftError(f"{path}: {err.strerror}; give a run's metrics/spike_log.jsonl or a dump") from err
    spikes = [record for record in map(_record, lines) if "optimizer_step" in record]
    wanted = [record for record in spikes if step is None or record["optimizer_step"] == step]
    dumped = [record["dump"] for record in wanted if record.get("dump")]
    if not dumped:
        which = f"optimizer step {step}" if step is not None else "any step"
        why = next((r["dump_error"] for r in reversed(wanted) if r.get("dump_error")), None)
        has = ", ".join(sorted({str(r["optimizer_step"]) for r in spikes if r.get("dump")})[-10:]) or "none"
        raise RftError(f"{path}: no dump of {which}{f' ({why})' if why else ''}; steps with one: {has}")
    return path.parent / dumped[-1]


def _record(line: bytes) -> dict:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def run(options: argparse.Namespace) -> dict:
    """Everything that the tables show, as one object."""
    from rich.console import Console
    from rich.progress import Progress

    from rft import spike_dump, spike_gradient

    dumps = spike_dump.read_step(find_dump(options.file, options.step))
    meta = dumps[0]["meta"]
    settings = dict(meta["settings"]) | ({"pretrain": options.pretrain} if options.pretrain else {})
    actor = spike_gradient.load_actor(settings, dumps[0]["adapter"], options.device, options.gradient_checkpointing)
    total = sum(len(dump["micro_batches"]) for dump in dumps)
    with Progress(console=Console(stderr=True), transient=True, disable=options.json) as bar:
        task = bar.add_task("micro-batches", total=total)
        found = spike_gradient.replay(actor, settings, dumps, options.device, lambda: bar.advance(task))
    tokens = spike_gradient.token_pulls(found, dumps)
    measured = tokens[: options.measure]
    spike_gradient.measure_tokens(actor, found, dumps, measured, options.device)
    shown = tokens[: max(options.tokens, options.measure)]
    _add_texts(shown, settings["pretrain"])
    logged = meta["grad_norm"]
    finite = math.isfinite(found.grad_norm)
    if logged is None:
        agrees = not finite
    else:
        agrees = finite and abs(found.grad_norm - logged) <= AGREES * logged
    return {
        "optimizer_step": meta["optimizer_step"],
        "reason": meta["reason"],
        "grad_norm_logged": logged,
        "grad_norm": found.grad_norm if finite else None,
        "agrees": agrees,
        "loss": found.loss if math.isfinite(found.loss) else None,
        "tokens_in_step": len(tokens),
        "dropout": settings.get("lora_dropout", 0) or 0,
        "micro_batches": found.batches,
        "tokens": shown,
    }


def _add_texts(tokens: list[dict], pretrain: str) -> None:
    """`text` of every token, as the model's tokenizer spells it; left out where there is no tokenizer."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(pretrain)
    except (OSError, ValueError):
        return
    for token in tokens:
        token["text"] = tokenizer.decode([token["token_id"]], skip_special_tokens=False)


def show(result: dict) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    logged = "not finite" if result["grad_norm_logged"] is None else f"{result['grad_norm_logged']:.6g}"
    now = "not finite" if result["grad_norm"] is None else f"{result['grad_norm']:.6g}"
    verdict = "agree" if result["agrees"] else "DISAGREE: another base model, dropout, or another device's kernels?"
    console.print(f"optimizer step {result['optimizer_step']} ({result['reason']}): grad_norm {now}, logged {logged}")
    console.print(f"  {verdict}; loss {_number(result['loss'])}, {result['tokens_in_step']} action tokens")
    batches = Table(title="micro-batches, the largest gradient first")
    for column in ("rank", "number", "tokens", "loss", "grad_norm"):
        batches.add_column(column, justify="right")
    order = sorted(
        result["micro_batches"], key=lambda b: -b["grad_norm"] if math.isfinite(b["grad_norm"]) else -math.inf
    )
    for b in order[:20]:
        row = (b["rank"], b["micro_batch"], b["tokens"], _number(b["loss"]), _number(b["grad_norm"]))
        batches.add_row(*map(str, row))
    console.print(batches)
    table = Table(title="tokens, the strongest pull first")
    keys = ["pull", "advantage", "log_prob", "trainer_log_prob", "old_log_prob", "rollout_log_prob"]
    keys += [key for key in ("grad_norm", "share") if result["tokens"] and key in result["tokens"][0]]
    for column in ("where", "token", *(key.replace("_log_prob", "") for key in keys)):
        table.add_column(column, justify="right")
    for token in result["tokens"]:
        where = f"{token['rank']}.{token['micro_batch']}.{token['row']}:{token['position']}"
        text = escape(repr(token.get("text", token["token_id"])))
        table.add_row(where, text, *(_number(token.get(key)) for key in keys))
    console.print(table)


def _number(value) -> str:
    return "-" if value is None else f"{value:.4g}"


def main(argv: list[str]) -> int:
    """0 if the norms agree, 1 if they do not."""
    options = parser().parse_args(argv)
    if options.tokens < 0 or options.measure < 0:
        raise RftError(f"--tokens is {options.tokens}, --measure {options.measure}: give 0 or more")
    with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed greets on stdout
        result = run(options)
    if options.json:
        from rft.metrics_file import finite

        print(json.dumps(finite(result)))
    else:
        show(result)
    return 0 if result["agrees"] else 1

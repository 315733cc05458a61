"""``rft export``: a trained adapter as a standalone checkpoint (MXFP4 or bf16) or as GGUF, on the hub if asked for."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rft.errors import RftError

FORMATS = ("mxfp4", "bf16", "gguf", "gguf-lora")
EPILOG = """\
--push_to_hub reads HF_TOKEN and HF_REPO_ID (owner/name) from the environment; the repository is made private unless
--public is given, and the files become visible in one commit or not at all. Without --adapter it uploads the export
that stands at --out.
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="rft export", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--adapter", type=Path, metavar="DIR", help="a run's final/ or global_step*_hf")
    made.add_argument("--base", metavar="ID", help="folder or hub id (default: the one that the adapter names)")
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    made.add_argument(
        "--format",
        choices=FORMATS,
        help="mxfp4: experts as published, byte for byte; bf16: 3 times as large; gguf: the merged model for llama.cpp "
        "and Ollama; gguf-lora: the adapter alone for them",
    )
    made.add_argument("--run", metavar="RUN", help="the run for the model card (default: the one the adapter lies in)")
    made.add_argument(
        "--evaluation", type=Path, action="append", default=[], metavar="FILE", help="result file for the model card"
    )
    made.add_argument("--push_to_hub", action="store_true", help="upload it afterwards")
    made.add_argument("--public", action="store_true", help="with --push_to_hub: a new repository is public")
    made.add_argument("--quiet", action="store_true", help="no progress bar")
    return made


@contextmanager
def bar(what: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar over bytes on stderr, live on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=quiet or not console.is_terminal) as shown:
        task = shown.add_task(what, total=total)
        yield lambda done: shown.advance(task, done)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.public and not args.push_to_hub:
        raise RftError("--public says how a repository is made: give --push_to_hub too")
    target = None
    if args.adapter is None and not args.push_to_hub:
        raise RftError("--adapter is missing: name a run's final/ or global_step*_hf")
    if args.adapter is not None and args.format is None:
        raise RftError(f"--format is missing: one of {', '.join(FORMATS)}")
    if args.push_to_hub:  # before the work, not after it
        from rft.export import hub

        target = hub.target(private=not args.public)
        if args.adapter is None:
            _require_whole(args.out)
            return _upload(args, target)
    from rft.export import adapter as adapters
    from rft.export import base as bases
    from rft.export import card

    adapter = adapters.read(args.adapter)
    base = bases.find(adapter, args.base)
    if not base.certain:
        print(f"warning: nothing tells whether {args.adapter} was trained on {base.name}; only shapes were compared",
              file=sys.stderr)  # fmt: skip
    facts = card.of_run(args.adapter, args.run, args.evaluation)
    report = _write(args, adapter, base, facts)
    for stem, error in report.get("requantised", {}).items():
        print(
            f"{stem}: quantising adds {error['relative_error']:.2%} of the weight, {error['error_to_update']:.2%} of "
            "the update (root mean square)"
        )
    print(f"{args.out}: {args.format}, adapter {adapter.digest[:12]} on {base.name} ({base.fingerprint[:12]})")
    return _upload(args, target) if target else 0


def _upload(args: argparse.Namespace, target) -> int:
    from huggingface_hub.utils import disable_progress_bars

    from rft.export import hub

    if args.quiet:
        disable_progress_bars()
    print(f"{hub.upload(args.out, target)} ({'private' if target.private else 'public'})")
    return 0


def _require_whole(out: Path) -> None:
    from rft.checkpoint import verify

    problem = verify(out)
    if problem:
        raise RftError(f"--out {out}: not a whole export ({problem}); make one with --adapter and --format")


def _write(args: argparse.Namespace, adapter, base, facts: dict) -> dict:
    total = sum(entry.nbytes for entry in base.tensors.values())
    if args.format == "gguf-lora":
        from rft.export import gguf_adapter

        return gguf_adapter.export(adapter, base, args.out, facts)
    if args.format == "gguf":
        from rft.export import gguf_model

        with bar("writing", total, args.quiet) as advance:
            return gguf_model.export(adapter, base, args.out, facts, advance)
    from rft.export import checkpoint

    with bar("writing", total, args.quiet) as advance:
        return checkpoint.export(adapter, base, args.out, args.format, facts, advance)

"""``rft tiny``: ``make`` builds the tiny model, ``summary`` sums up a tiny run."""

import argparse
import sys
import warnings
from pathlib import Path

from rft.errors import RftError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rft tiny", description="The tiny gpt-oss that runs the whole loop on a CPU.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    maker = verbs.add_parser("make", help="make the tiny checkpoint, its bf16 twin and the prompt files")
    maker.add_argument("--out", type=Path, required=True, help="folder to make; a complete one is used again")
    maker.add_argument("--seed", type=int, default=0, help="seed of the weights, the warm start and the split")
    maker.add_argument("--quiet", action="store_true", help="no progress bar")
    summary = verbs.add_parser("summary", help="before and after on held-out prompts, from a run's files")
    summary.add_argument("run", help="run folder, run id or its beginning, or `last`")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated", category=FutureWarning)  # torch's own
    try:
        if args.verb == "make":
            return _make(args)
        from rft.tiny import summary as tiny_summary

        return tiny_summary.main([args.run])
    except RftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _make(args) -> int:
    from rft.tiny.build import make

    manifest = make(args.out, seed=args.seed, quiet=args.quiet)
    counts, accuracy = manifest["counts"], manifest["heldout_at_warm_start_end"]
    print(f"model       {args.out / 'model'}  ({manifest['parameters']:,} parameters, MXFP4 experts)")
    print(f"model-bf16  {args.out / 'model-bf16'}  (its exact dequantisation, for the engine)")
    print(f"train       {args.out / 'train.jsonl'}  ({counts['train']} prompts)")
    print(f"heldout     {args.out / 'heldout.jsonl'}  ({counts['heldout']} prompts)")
    print(
        f"held-out accuracy: greedy {accuracy['greedy_pass1']:.3f}, sampled {accuracy['sampled_accuracy']:.3f}"
        f" ({accuracy['problems']} problems x {accuracy['samples']} samples)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

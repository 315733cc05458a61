"""``rft plan``: will a run fit, in which GPU, on which host, on which disk, and how long is a step?

Asks the recipe for its flags, plans, prints; starts nothing and writes nothing. Exit status 0: fits, 1: does not.
"""

import argparse
import json
import os
import sys

from rft.errors import RftError

DESCRIPTION = """Memory of every GPU and of the host, bytes on disk and seconds a step of a run.
Flags that are not listed here are the recipe's (--generate_max_len 8192, --offload, …) and go to it unchanged."""
TABLES = ("sizes", "ways", "cards")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="rft plan", description=DESCRIPTION, allow_abbrev=False)
    made.add_argument("--model", default="20b", help="20b, 120b, or the folder of a gpt-oss checkpoint (default: 20b)")
    made.add_argument("--recipe", help="launcher whose flags are planned (default: the model's own)")
    made.add_argument("--gpus", type=int, help="GPUs in all, half for the actor; 1: shared with a sleeping engine")
    made.add_argument("--gpu_gib", default="80", help="memory of one GPU in GiB; several with commas (default: 80)")
    made.add_argument("--host_gib", type=float, help="memory of the host in GiB; without it the host is not judged")
    made.add_argument("--experts", choices=("dequantised", "resident"), help="how the actor holds its experts")
    made.add_argument("--stream_load", action="store_true", help="each rank reads its slice, not a whole copy")
    made.add_argument("--no_stream_load", action="store_true", help="each rank reads a whole copy: RFT_STREAM_LOAD=0")
    made.add_argument("--no_offload", action="store_true", help="the recipe without --offload and --adam_offload")
    made.add_argument("--calibrate", metavar="RUN", help="carry over what a run measured: id, last or folder")
    made.add_argument("--terms", action="store_true", help="every term, not only those over 2 %%")
    made.add_argument("--table", choices=TABLES, help="a Markdown table: sizes of the models, ways to hold, cards")
    made.add_argument("--json", action="store_true", help="as JSON")
    return made


def split_flags(gpus: int) -> list[str]:
    """Flags that share `gpus` GPUs out: half to the actor, engines of TP 2 where they can be."""
    if gpus < 1:
        raise RftError(f"--gpus {gpus}: at least one GPU has to hold the actor")
    if gpus == 1:
        one = ["--vllm_num_engines", "1", "--vllm_tensor_parallel_size", "1", "--canary_every", "0"]
        shared = ["--colocate_all_models", "--vllm_enable_sleep", "--deepspeed_enable_sleep"]
        return ["--actor_num_gpus_per_node", "1", "--ref_num_gpus_per_node", "1", *one, *shared]
    ranks = gpus // 2
    rest = gpus - ranks
    tensor_parallel = 2 if rest % 2 == 0 else 1
    engines = ["--vllm_num_engines", str(rest // tensor_parallel), "--vllm_tensor_parallel_size", str(tensor_parallel)]
    return ["--actor_num_gpus_per_node", str(ranks), "--ref_num_gpus_per_node", str(ranks), *engines]


def cards_of(text: str) -> list[int]:
    """Bytes of each card in ``16,24,80``."""
    try:
        found = [int(float(part) * (1 << 30)) for part in text.split(",")]
    except ValueError as error:
        raise RftError(f"--gpu_gib {text}: give GiB, several with commas, as 24,80") from error
    if min(found) <= 0:
        raise RftError(f"--gpu_gib {text}: a GPU has more than 0 GiB")
    return found


def setting_of(args: argparse.Namespace, rest: list[str], gpu_bytes: int):
    from rft.plan import setting

    env = dict(os.environ)
    if args.no_offload:
        env["RFT_OFFLOAD"] = "0"
    if args.no_stream_load:
        env["RFT_STREAM_LOAD"] = "0"
    machine = {"host_bytes": int(args.host_gib * (1 << 30)) if args.host_gib else None}
    flags = [*(split_flags(args.gpus) if args.gpus else []), *(flag for flag in rest if flag != "--")]
    found = setting.read(args.model, args.recipe, flags, env, gpu_bytes, **machine)
    experts = args.experts or found.experts
    return found.changed(experts=experts, streamed=found.streamed or args.stream_load or experts == "resident")


def main(argv: list[str]) -> int:
    args, rest = parser().parse_known_args(argv)
    from rft.plan import advice, calibrate, node, render, seconds, tables

    if args.table == "sizes":
        print(tables.sizes())
        return 0
    cards = cards_of(args.gpu_gib)
    s = setting_of(args, rest, cards[0])
    if args.table:
        sizes = tuple(card >> 30 for card in cards) if "," in args.gpu_gib else tables.CARDS_GIB
        print(tables.ways(s) if args.table == "ways" else tables.cards(s, sizes))
        return 0
    calibration = calibrate.read(args.calibrate, cards[0]) if args.calibrate else None
    outcomes = []
    for card in cards:
        planned = node.plan(s.changed(gpu_bytes=card))
        change = advice.cheapest(planned.setting)
        phases = seconds.phases(planned.setting)
        if calibration:
            planned, phases = calibration.apply(planned), calibration.phases(phases)
        outcomes.append((planned, change, phases))
    if args.json:
        found = [render.as_json(*outcome) for outcome in outcomes]
        print(json.dumps(found[0] if len(found) == 1 else found, indent=2))
    else:
        if calibration:
            print(calibration.text(), end="\n\n")
        print("\n\n".join(render.text(*outcome, every=args.terms) for outcome in outcomes))
    return 0 if all(planned.fits for planned, *_ in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

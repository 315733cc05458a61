#!/usr/bin/env python
"""The actor's experts and layers: resident MXFP4 against stock transformers, side by side in one run.

    python benchmarks/actor.py                                    # experts of one layer, a small CPU geometry
    python benchmarks/actor.py --model 20b --tokens 8192          # on a GPU: one layer's experts of the real geometry
    python benchmarks/actor.py --part layers --layers 2           # whole layers with LoRA, embedding and log-probs

experts  one layer's experts alone. Ways: `train`: transformers' experts in train mode, bf16 weights, which is also this
         project's dequantised path; `eval`: the same in eval mode (on a GPU: every expert for every token); `resident`
layers   a model of N layers from one synthetic checkpoint, LoRA on q, k, v, o, gradient checkpointing. Ways: `stock`:
         from_pretrained, eager attention; `dequantised` and `resident`: this project's loader, --attn

A pass is `forward` (no gradient, as for old log-probs) or `both` (forward and backward). Ways take turns; a time
is the median, on a CPU of the process's CPU seconds on --threads threads, so that other work on the machine counts
little. Memory: on a CPU each way runs in a process of its own, and the peak of its resident set during the pass counts
from before the weights were made; on a GPU the allocator's.
`share` is the useful work, 6 S H I operations a product pass (12 with backward; S routed rows), over what the device
reaches on a square bf16 matrix product in the same run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # where rft is not installed

MODELS = {  # experts, experts a token, hidden, intermediate
    "tiny": (8, 2, 128, 64),  # for tests
    "small": (16, 4, 768, 768),
    "20b": (32, 4, 2880, 2880),
    "120b": (128, 4, 2880, 2880),
}
PASSES = ("forward", "both")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=__doc__.partition("\n\n")[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--part", choices=["experts", "layers"], default="experts")
    parser.add_argument("--model", choices=list(MODELS), default="small", help="geometry")
    parser.add_argument("--layers", type=int, default=2, help="of --part layers")
    parser.add_argument("--tokens", type=int, help="default: 512 on a CPU, 8192 on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ways", help="comma-separated; default: all of the part")
    parser.add_argument("--backend", help="of resident experts: loop, grouped, triton (default: what the device gets)")
    parser.add_argument("--attn", default="eager", help="attention of dequantised and resident layers")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda if there is one")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # a child: WAY:PASS, prints bytes
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def matrix_peak(device: str, repeats: int) -> float:
    """Floating-point operations a second of the best square bf16 product."""
    import torch

    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    best = min(seconds(lambda: a @ b, device) for _ in range(max(5, repeats)))
    return 2 * size**3 / best


def seconds(call, device: str) -> float:
    import torch

    if device == "cpu":
        start = time.process_time()
        call()
        return (time.process_time() - start) / torch.get_num_threads()
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_resident(make) -> int:
    """Bytes that the process grew by at the most, from before make() until the call that it returns is over."""
    before = _status("VmRSS")
    call = make()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making
    call()
    return _status("VmHWM") - before


def peak_allocated(call) -> int:
    import torch

    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def memory_in_child(argv: list[str], way: str, name: str) -> int:
    done = subprocess.run([sys.executable, __file__, *argv, "--memory-of", f"{way}:{name}"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{way} {name} failed: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout.split()[-1])


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    import torch

    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(args.threads)
    args.tokens = args.tokens or (8192 if args.device == "cuda" else 512)
    if args.part == "experts":
        import actor_experts as part
    else:
        import actor_layers as part
    if args.memory_of:
        way, name = args.memory_of.split(":")
        print(peak_resident(lambda: part.prepare(args, way)[name]))
        return 0

    with part.material(args) as extra:
        result = measure(args, part, [*argv, *extra])
    show(result)
    if args.json:
        print(json.dumps(result))
    return 0


def measure(args, part, argv: list[str]) -> dict:
    import torch

    ways = args.ways.split(",") if args.ways else part.WAYS
    peak = matrix_peak(args.device, args.repeats)
    found = {way: {} for way in ways}
    if args.device == "cpu":
        for way in ways:
            for name in part.passes(way):
                found[way][name] = {"peak_bytes": memory_in_child(argv, way, name)}
    calls = {way: part.prepare(args, way) for way in ways}
    for name in PASSES:
        timed = {way: [] for way in ways if name in part.passes(way)}
        for way in timed:
            calls[way][name]()  # warm
        for _ in range(args.repeats):
            for way in timed:
                timed[way].append(seconds(calls[way][name], args.device))
        for way, taken in timed.items():
            median = statistics.median(taken)
            entry = found[way].setdefault(name, {})
            entry |= {
                "seconds": median,
                "tokens_per_s": args.tokens / median,
                "share_of_matrix_peak": part.operations(args, name) / median / peak,
            }
            if args.device == "cuda":
                entry["peak_bytes"] = peak_allocated(calls[way][name])
    return {
        "part": args.part,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "model": args.model,
        "layers": args.layers if args.part == "layers" else 1,
        "tokens": args.tokens,
        "matrix_peak_flops": peak,
        "weights_bytes": {way: part.held_bytes(calls[way]) for way in ways},
        "ways": found,
        "first_way": ways[0],
    }


def show(result: dict) -> None:
    where = f"{result['device']}, {result['threads']} threads, load {result['load_average']:.1f}"
    print(f"{result['part']}, {result['model']}, {result['tokens']} tokens, {where}; "
          f"matrix peak {result['matrix_peak_flops'] / 1e9:.0f} GFLOP/s")  # fmt: skip
    first = result["ways"][result["first_way"]]
    print(f"\n| way | pass | weights GiB | peak GiB | s | tokens/s | share of peak | against {result['first_way']} |")
    print("|---|---|---|---|---|---|---|---|")
    for way, passes in result["ways"].items():
        for name, entry in passes.items():
            ratio = first[name]["seconds"] / entry["seconds"] if name in first else float("nan")
            print(
                f"| {way} | {name} | {result['weights_bytes'][way] / 2**30:.3f} | {entry['peak_bytes'] / 2**30:.3f} "
                f"| {entry['seconds']:.4f} | {entry['tokens_per_s']:.0f} | {entry['share_of_matrix_peak']:.1%} "
                f"| {ratio:.2f}x |"
            )


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Memory and time of loading a model, streamed and stock, and what placements move. CPU only.

    python benchmarks/loading.py --json  # a model of 1 GB, made and removed: 10 GB of memory
    python benchmarks/loading.py --model FOLDER --ranks 4

One process each: load, then a training step with LoRA. Then `--ranks` processes under ZeRO-3: load and
`deepspeed.initialize`, memory of all of them together. Stock is `from_pretrained` with `Mxfp4Config(dequantize=True)`
as the dequantised path has used it so far. Peaks are of anonymous memory, above what the imports took; with mapped file
pages in brackets. Last, over gloo: the bytes and time of gathering a layer's experts against sending its tokens.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # where rft is not installed

WAYS = ("stock", "dequantised", "resident")
LIMITS = {"load": 1.3, "step": 1.5}  # resident, of the checkpoint
STOCK_AT_LEAST = 4.0
RANKS_LIMIT = 1.1  # of the checkpoint (resident) or of one bf16 copy (dequantised), all ranks together


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="folder of an MXFP4 gpt-oss; default: one of 1 GB, made and removed")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--tokens", type=int, default=128, help="of the training step; 0: none")
    parser.add_argument("--ranks", type=int, default=2, help="of the ZeRO-3 part; 0: none")
    parser.add_argument("--gather-ranks", type=int, default=4, help="of the comparison over gloo; 0: none")
    parser.add_argument("--small", action="store_true", help="a model of 4 MB, to see that it works: no result")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from benchmarks.synthetic_model import GB, Shape, make

    with tempfile.TemporaryDirectory(prefix="rft-loading-") as folder:
        shape = Shape(2, 8, 2, 128, 128, 4, 2, 32, 2000, 16) if args.small else GB
        model = args.model or make(Path(folder) / "model", shape)
        result = measure(args, model)
    if args.json:
        print(json.dumps(result))
    return 0


def measure(args: argparse.Namespace, model: Path) -> dict:
    from rft.loading.placement import Geometry, model_bytes
    from rft.loading.shards import Checkpoint

    checkpoint = Checkpoint(model).nbytes
    geometry = Geometry.of_config(json.loads((model / "config.json").read_text()))
    bf16 = model_bytes(geometry, "dequantised")
    print(f"checkpoint {checkpoint / 1e9:.3f} GB, as bf16 {bf16 / 1e9:.3f} GB ({bf16 / checkpoint:.2f}x)\n")
    result: dict = {"checkpoint_bytes": checkpoint, "bf16_bytes": bf16, "one": {}, "ranks": {}}
    print(f"{'one process, of the checkpoint':34}{'load':>16}{'held':>8}{'s':>7}{'training step':>18}{'s':>7}")
    for way in args.ways:
        (found,) = run(way, model, args.tokens, ranks=1)
        result["one"][way] = found
        text = f"{way:34}{_times(found['load'], checkpoint):>16}{found['held']['anon'] / checkpoint:>8.2f}"
        text += f"{found['load_s']:>7.1f}"
        if args.tokens:
            text += f"{_times(found['step'], checkpoint):>18}{found['step_s']:>7.1f}"
        print(text, flush=True)
    if args.ranks:
        print(f"\n{f'{args.ranks} ranks together, ZeRO-3':34}{'peak, GB':>16}{'of':>26}{'ratio':>8}")
        for way in args.ways:
            found = run(way, model, 0, args.ranks)
            total = sum(rank["load"]["anon"] for rank in found)
            of, name = (checkpoint, "the checkpoint") if way == "resident" else (bf16, "one bf16 copy")
            result["ranks"][way] = {"peak_bytes": total, "of_bytes": of, "ratio": total / of}
            print(f"{way:34}{total / 1e9:>16.2f}{name:>26}{total / of:>8.2f}", flush=True)
    if args.gather_ranks:
        result["gathers"] = gathers(args.gather_ranks)
    result["holds"] = judge(result, checkpoint)
    print("\n" + "\n".join(f"{'holds' if ok else 'DOES NOT HOLD'}: {what}" for what, ok in result["holds"].items()))
    return result


def gathers(ranks: int) -> list[dict]:
    """Print and return what `loading_gathers.py` measured."""
    from benchmarks import loading_gathers

    rows = loading_gathers.measure(ranks)
    print(f"\n{f'{ranks} ranks, gloo; 4 of 128 experts':34}{'received, MB':>16}{'ms':>10}{'MB/s':>10}")
    for row in rows:
        size, seconds = row["received_bytes"] / 1e6, row["seconds"]
        print(f"{row['what']:34}{size:>16.1f}{seconds * 1e3:>10.1f}{size / seconds:>10.0f}", flush=True)
    return rows


def judge(result: dict, checkpoint: int) -> dict[str, bool]:
    """The limits that were measured, each with whether it holds."""
    holds = {}
    one = result["one"]
    for phase, limit in LIMITS.items():
        if phase in one.get("resident", {}):
            ratio = one["resident"][phase]["anon"] / checkpoint
            holds[f"resident {phase} at most {limit} x the checkpoint: {ratio:.2f}"] = ratio <= limit
        if phase in one.get("stock", {}):
            ratio = one["stock"][phase]["rss"] / checkpoint
            holds[f"stock {phase} at least {STOCK_AT_LEAST} x the checkpoint: {ratio:.2f}"] = ratio >= STOCK_AT_LEAST
    for way in ("dequantised", "resident"):
        if way in result["ranks"]:
            ratio = result["ranks"][way]["ratio"]
            holds[f"{way}, all ranks, at most {RANKS_LIMIT} x one copy: {ratio:.2f}"] = ratio <= RANKS_LIMIT
    return holds


def run(way: str, model: Path, tokens: int, ranks: int) -> list[dict]:
    """What each of `ranks` processes of loading_worker.py measured."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    env["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)  # or glibc keeps what tensors of up to 32 MB gave back, for every way
    env |= {"TORCHDYNAMO_DISABLE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0"}
    command = [sys.executable, str(Path(__file__).with_name("loading_worker.py")), way, str(model), str(tokens)]
    found = []
    with tempfile.TemporaryFile("w+") as log:
        processes = [
            subprocess.Popen(
                command,
                env={**env, "RANK": str(rank), "WORLD_SIZE": str(ranks)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            for rank in range(ranks)
        ]
        try:
            for process in processes:
                out = process.communicate()[0]
                if process.returncode:
                    log.seek(0)
                    raise SystemExit(
                        f"error: {' '.join(command)} exited with {process.returncode}:\n{log.read()[-3000:]}"
                    )
                found.append(json.loads(out.splitlines()[-1]))
        finally:
            for process in processes:
                process.kill()
    return found


def _times(peak: dict[str, int], size: int) -> str:
    return f"{peak['anon'] / size:.2f} ({peak['rss'] / size:.2f})"


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""What an export costs beside a plain copy of the same files: time as a ratio, and peak memory.

    python benchmarks/export.py [--layers 16] [--format mxfp4] [--experts] [--json]

A synthetic checkpoint (benchmarks/synthetic_model.py; about 2 GB at 16 layers) and a LoRA adapter on q, k, v, o (r
32) are made in a folder that is deleted afterwards. Copy and export run in turn, `--repeat` times each, every one in
a process of its own, on warm files, and both force what they wrote to the disk; the export also digests what it reads
and writes. The ratio is of the medians. Peak memory is the export's largest resident set, from its own getrusage,
imports included.
`--experts`: the adapter targets the experts too, so that they are dequantised, merged and requantised.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

RANK, ALPHA = 32, 64
COPY = """
import os, sys, time
from pathlib import Path
import shutil
source, target = map(Path, sys.argv[1:3])
began = time.perf_counter()
target.mkdir()
for path in sorted(source.iterdir()):
    shutil.copyfile(path, target / path.name)
    handle = os.open(target / path.name, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
print(time.perf_counter() - began, time.process_time(), 0)
"""
EXPORT = """
import resource, sys, time
from pathlib import Path
import torch
from rft.export import adapter, base, checkpoint
torch.set_num_threads(1)
folder, target, lora, form = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
began, spent = time.perf_counter(), time.process_time()
found = adapter.read(lora)
checkpoint.export(found, base.find(found, str(folder)), target, form)
seconds, spent = time.perf_counter() - began, time.process_time() - spent
print(seconds, spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def parse() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--layers", type=int, default=16)
    made.add_argument("--format", choices=("mxfp4", "bf16"), default="mxfp4")
    made.add_argument("--experts", action="store_true")
    made.add_argument("--repeat", type=int, default=3)
    made.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    made.add_argument("--json", action="store_true", help="the last line is a JSON object")
    return made.parse_args()


def make_adapter(folder: Path, model: Path, shape, experts: bool) -> Path:
    """A random adapter in PEFT's form."""
    import torch
    from safetensors.torch import save_file

    wide, narrow = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    hidden, inner, count = shape.hidden_size, shape.intermediate_size, shape.num_local_experts
    sizes = {"q_proj": (wide, hidden), "k_proj": (narrow, hidden), "v_proj": (narrow, hidden), "o_proj": (hidden, wide)}
    tensors = {}
    for layer in range(shape.num_hidden_layers):
        stem = f"base_model.model.model.layers.{layer}"
        for name, (rows, columns) in sizes.items():
            tensors[f"{stem}.self_attn.{name}.lora_A.weight"] = torch.randn(RANK, columns).bfloat16() / 64
            tensors[f"{stem}.self_attn.{name}.lora_B.weight"] = torch.randn(rows, RANK).bfloat16() / 64
        if experts:
            for nested, rows, columns in ((".base_layer", hidden, 2 * inner), ("", inner, hidden)):
                tensors[f"{stem}.mlp.experts{nested}.lora_A.weight"] = torch.randn(4 * count, columns).bfloat16() / 64
                tensors[f"{stem}.mlp.experts{nested}.lora_B.weight"] = torch.randn(rows, 4 * count).bfloat16() / 64
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": str(model), "peft_version": "0.21.2"}
    config["rank_pattern"] = {"mlp.experts": 4} if experts else {}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def timed(code: str, *arguments) -> tuple[float, float, float]:
    """Seconds, seconds of the processor, peak bytes."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    seconds, spent, peak = map(float, done.stdout.split()[-3:])
    return seconds, spent, peak


def main() -> None:
    args = parse()
    import synthetic_model

    work = Path(tempfile.mkdtemp(prefix="rft-export-", dir=args.folder))
    try:
        shape = replace(synthetic_model.GB, num_hidden_layers=args.layers)
        model = synthetic_model.make(work / "model", shape)
        lora = make_adapter(work / "lora", model, shape, args.experts)
        total = sum(path.stat().st_size for path in model.iterdir())
        copies, exports, peak, cpu = [], [], 0.0, []
        for _ in range(args.repeat):
            seconds, copy_cpu, _ = timed(COPY, model, work / "copy")
            copies.append(seconds)
            shutil.rmtree(work / "copy")
            seconds, export_cpu, memory = timed(EXPORT, model, work / "out", lora, args.format)
            exports.append(seconds)
            cpu.append((copy_cpu, export_cpu))
            peak = max(peak, memory)
            written = sum(path.stat().st_size for path in (work / "out").iterdir())
            shutil.rmtree(work / "out")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    copy_s, export_s = statistics.median(copies), statistics.median(exports)
    print(f"checkpoint {total / 1e9:.2f} GB, written as {args.format} {written / 1e9:.2f} GB, {args.repeat} times each")
    print(f"plain copy {copy_s:.2f} s, export {export_s:.2f} s: {export_s / copy_s:.2f} times the copy")
    copy_cpu, export_cpu = (statistics.median(column) for column in zip(*cpu, strict=True))
    print(f"of the processor: copy {copy_cpu:.2f} s, export {export_cpu:.2f} s in two threads (digests included)")
    print(f"peak memory of the export {peak / 1e9:.3f} GB")
    if args.json:
        figures = {"bytes": total, "written_bytes": written, "copy_s": copies, "export_s": exports, "cpu_s": cpu}
        print(json.dumps({**figures, "ratio": export_s / copy_s, "peak_bytes": peak, "format": args.format}))


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Time and peak memory of attention with sinks, and of log-probs and entropy, against the usual ways, in one run.

    python benchmarks/attention.py --json                                   # CPU: small shapes
    python benchmarks/attention.py --device cuda --lengths 4096 8192 16384  # one layer of gpt-oss, bf16

*eager* is transformers' own function of gpt-oss, with the mask that transformers makes for it; on a GPU transformers'
flex_attention too. Ways take turns; a CPU's seconds are those of the one thread that works. Peak memory is what torch's
allocator gives out above the inputs, forward and backward together. Errors are root mean squares against float64, at
the shortest length, as a multiple of eager's. *whole* logits are OpenRLHF's way: float32 (T, V), log_probs_from_logits,
and its entropy formula.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where rft is not installed

from benchmarks.allocated import peak_bytes

REAL = {"heads": 64, "groups": 8, "dim": 64, "window": 128, "vocabulary": 201_088, "hidden": 2880}
SMALL = {"heads": 16, "groups": 2, "dim": 64, "window": 128, "vocabulary": 32_768, "hidden": 256}
LENGTHS = {"cpu": [512, 1024, 2048], "cuda": [2048, 4096, 8192]}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--lengths", type=int, nargs="+", help="tokens of the one row (512 1024 2048; GPU: 2048 to 8192)"
    )
    parser.add_argument("--what", choices=["attention", "logprobs"], nargs="+", default=["attention", "logprobs"])
    parser.add_argument("--chunk_tok", type=int, default=256, help="tokens of which logits exist at a time (256)")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds of each way (3)")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        print("error: no GPU here; leave --device out for the small CPU shapes", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    if args.device == "cpu":
        torch.set_num_threads(1)
    shape = SMALL if args.device == "cpu" else REAL
    lengths = sorted(args.lengths or LENGTHS[args.device])
    device = "cpu, 1 thread" if args.device == "cpu" else torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}, bf16; {', '.join(f'{k} {v}' for k, v in shape.items())}")
    print(f"{'':>24}{'tokens':>8}{'forward s':>12}{'and back s':>12}{'peak MB':>10}   of the first: time, memory")
    rows = []
    if "attention" in args.what:
        for window in (None, shape["window"]):
            for length in lengths:
                ways = attention_ways(shape, length, window, args.device)
                rows += measure("full" if window is None else "sliding", length, ways, args)
    if "logprobs" in args.what:
        for entropy in (False, True):
            for length in lengths:
                ways = logprob_ways(shape, length, entropy, args)
                rows += measure("log p, entropy" if entropy else "log p", length, ways, args)
    errors = bf16_errors(shape, lengths[0], args.device) if "attention" in args.what else {}
    for name, found in errors.items():
        print(f"error of {name} as a multiple of eager's: {', '.join(f'{k} {v:.2f}' for k, v in found.items())}")
    if args.json:
        print(
            json.dumps({"device": device, "torch": torch.__version__, "shape": shape, "rows": rows, "errors": errors})
        )
    return 0


def measure(what: str, length: int, ways: dict, args) -> list[dict]:
    """One row of figures for each way; prints them."""
    import torch

    clock = time.process_time if args.device == "cpu" else time.perf_counter

    def seconds(run) -> float:
        start = clock()
        run()
        if args.device != "cpu":
            torch.accelerator.synchronize()
        return clock() - start

    times = {name: ([], []) for name in ways}
    for index in range(args.repeats + 1):
        for name, (forward, both) in ways.items():
            found = seconds(forward), seconds(both)
            if index:  # the first round compiles and warms up
                times[name][0].append(found[0])
                times[name][1].append(found[1])
    rows = []
    for name, (_, both) in ways.items():
        row = {"what": what, "way": name, "tokens": length, "peak_bytes": peak_bytes(both, args.device)}
        row["forward_s"], row["both_s"] = (statistics.median(part) for part in times[name])
        rows.append(row)
        row["time_ratio"] = row["both_s"] / rows[0]["both_s"]
        row["memory_ratio"] = row["peak_bytes"] / rows[0]["peak_bytes"]
        figures = f"{row['forward_s']:>12.4f}{row['both_s']:>12.4f}{row['peak_bytes'] / 1e6:>10.1f}"
        print(
            f"{what:>15} {name:<8}{length:>8}{figures}   {row['time_ratio']:.2f}, {row['memory_ratio']:.3f}", flush=True
        )
    return rows


def pair(compute, inputs, slope) -> tuple:
    """(forward under no_grad, forward and backward) of `compute`; slope of its output."""
    import torch

    def forward():
        with torch.no_grad():
            return compute()

    def both():
        return torch.autograd.grad(compute(), inputs, slope)

    return forward, both


def attention_inputs(shape, length, device, dtype):
    """query, key, value as the model passes them (transposed views), sinks; of one row."""
    import torch

    def make(heads):
        return torch.randn(1, length, heads, shape["dim"], device=device).to(dtype).transpose(1, 2).requires_grad_()

    sinks = torch.randn(shape["heads"], device=device).to(dtype).requires_grad_()
    return [make(shape["heads"]), make(shape["groups"]), make(shape["groups"]), sinks]


def attention_ways(shape, length, window, device) -> dict:
    import torch

    inputs = attention_inputs(shape, length, device, torch.bfloat16)
    slope = torch.randn(1, length, shape["heads"], shape["dim"], device=device).to(torch.bfloat16)
    names = ["eager", "sinks_tiled"] + (["sinks_flex", "flex_attention"] if device != "cpu" else [])
    return {name: pair(attend(name, inputs, shape, window, length, device), inputs, slope) for name in names}


def attend(name, inputs, shape, window, length, device):
    """A function that runs what transformers would call for ``attn_implementation=name``, its mask made beforehand."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    from rft import attention

    attention.register()
    module = SimpleNamespace(num_key_value_groups=shape["heads"] // shape["groups"], sinks=inputs[3], training=True)
    mask = AttentionMaskInterface()[name](
        batch_size=1,
        cache_position=torch.arange(length, device=device),
        kv_length=length,
        mask_function=causal_mask_function if window is None else sliding_window_causal_mask_function(window),
        attention_mask=torch.ones(1, length, dtype=torch.bool, device=device),
        dtype=inputs[0].dtype,
        config=SimpleNamespace(model_type=attention.MODEL_TYPE),
    )
    function = eager_attention_forward if name == "eager" else AttentionInterface()[name]
    options = {"scaling": shape["dim"] ** -0.5, "sliding_window": window, "s_aux": inputs[3]}
    return lambda: function(module, *inputs[:3], mask, **options)[0]


def logprob_ways(shape, length, entropy: bool, args) -> dict:
    import torch
    from torch.nn.functional import linear

    from rft.chunked_logprobs import scores

    hidden = torch.randn(length, shape["hidden"], device=args.device).bfloat16().requires_grad_()
    weight = (torch.randn(shape["vocabulary"], shape["hidden"], device=args.device) * 0.05).bfloat16()
    labels = torch.randint(0, shape["vocabulary"], (length,), device=args.device)
    slope = torch.randn(length, 2, device=args.device)

    def whole():
        from openrlhf.models.utils import log_probs_from_logits

        logits = linear(hidden, weight).float()
        found = logits.new_zeros(length)
        if entropy:  # compute_entropy, without the compilation that a CPU run switches off
            found = torch.logsumexp(logits, -1) - (logits.softmax(-1) * logits).sum(-1)
        return torch.stack([log_probs_from_logits(logits, labels), found], -1)

    def chunked():
        return scores(hidden, weight, labels, chunk_tok=args.chunk_tok, entropy=entropy)

    return {name: pair(way, [hidden], slope) for name, way in (("whole", whole), ("chunked", chunked))}


def bf16_errors(shape, length, device) -> dict:
    """{"full sinks_tiled": {"output": …, "query": …}}: root mean square error against float64 over eager's."""
    import torch

    result = {}
    for window in (None, shape["window"]):
        inputs = attention_inputs(shape, length, device, torch.bfloat16)
        slope = torch.randn(1, length, shape["heads"], shape["dim"], device=device).to(torch.bfloat16)
        exact = [t.detach().double().requires_grad_() for t in inputs]

        def run(name, tensors, slope, window=window):
            out = attend(name, tensors, shape, window, length, device)()
            return [out, *torch.autograd.grad(out, tensors, slope)]

        wanted = run("eager", exact, slope.double())
        squares = {}
        for name in ["eager", "sinks_tiled"] + ["sinks_flex"] * (device != "cpu"):
            found = run(name, inputs, slope)
            squares[name] = [(a.double() - b).square().mean().item() for a, b in zip(found, wanted, strict=True)]
        for name in squares.keys() - {"eager"}:
            ratios = [(a / b) ** 0.5 for a, b in zip(squares[name], squares["eager"], strict=True)]
            kind = "full" if window is None else "sliding"
            result[f"{kind} {name}"] = dict(zip(("output", "query", "key", "value", "sinks"), ratios, strict=True))
    return result


if __name__ == "__main__":
    sys.exit(main())

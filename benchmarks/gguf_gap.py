#!/usr/bin/env python
"""How far llama.cpp's log-probs of an exported GGUF are from transformers', on the tiny model.

    python benchmarks/gguf_gap.py --adapter runs/ID/final [--base DIR] [--json]

Needs llama-cpp-python. Three forms of the merged model, float32 and as exported by llama.cpp, bf16 by transformers,
each against transformers in float32, with YaRN's bands as the model has them and rounded as llama.cpp has them. A
figure is the mean over the positions of two prompts of the expected |Δ log p|, nats. One thread each.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

QUESTIONS = ("What is 3 + 4?", "What is 17 + 25?")


def parse() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--adapter", type=Path, required=True)
    made.add_argument("--base")
    made.add_argument("--json", action="store_true", help="the last line is a JSON object")
    return made.parse_args()


def llama(file: Path, prompts: list[list[int]], **options) -> list:
    import llama_cpp
    import numpy as np
    import torch

    options |= {"n_ctx": 256, "logits_all": True, "verbose": False, "n_threads": 1, "n_threads_batch": 1}
    model, found = llama_cpp.Llama(str(file), **options), []
    for ids in prompts:
        model.reset()
        model.eval(ids)
        found.append(torch.tensor(np.array(model.scores[: len(ids)]), dtype=torch.float64).log_softmax(-1))
    model.close()
    return found


def transformers(folder: Path, prompts: list[list[int]], wide: bool, rounded: bool) -> list:
    import torch
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding

    from rft.tiny.model import load_checkpoint

    model = load_checkpoint(folder)
    model = model.float() if wide else model
    if rounded:
        model.config.rope_scaling["truncate"] = True
        model.model.rotary_emb = GptOssRotaryEmbedding(model.config)
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0].double().log_softmax(-1) for ids in prompts]


def gap(ours: list, theirs: list) -> float:
    return sum(float((b.exp() * (a - b).abs()).sum(-1).mean()) for a, b in zip(ours, theirs, strict=True)) / len(ours)


def main() -> None:
    args = parse()
    import torch

    from rft.evals import models
    from rft.export import adapter, base, checkpoint, gguf_model

    torch.set_num_threads(1)
    found = adapter.read(args.adapter)
    of = base.find(found, args.base)
    with tempfile.TemporaryDirectory(prefix="rft-gguf-") as name:
        work = Path(name)
        checkpoint.export(found, of, work / "merged", "mxfp4")
        gguf_model.export(found, of, work / "native")
        gguf_model.export(found, of, work / "wide", float32=True)
        tokenizer = models.tokenizer(work / "merged")
        prompts = [
            tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
            for text in QUESTIONS
        ]
        ours = {
            "llama.cpp, float32": llama(work / "wide" / gguf_model.FILE, prompts, type_k=0, type_v=0),
            "llama.cpp, as exported": llama(work / "native" / gguf_model.FILE, prompts),
        }
        figures = {}
        for rounded in (False, True):
            exact = transformers(work / "merged", prompts, True, rounded)
            narrow = transformers(work / "merged", prompts, False, rounded)
            for label, mine in {**ours, "transformers, bf16": narrow}.items():
                figures[f"{label}; bands {'rounded' if rounded else 'as the model has them'}"] = gap(mine, exact)
    for label, value in figures.items():
        print(f"{label:<55} {value:.2g} nats")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()

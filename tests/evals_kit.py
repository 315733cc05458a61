"""A model folder, adapters, a set, and an engine that answers from a recording: evaluation without vLLM."""

import json
from pathlib import Path

import torch
from lora_kit import adapter as random_adapter
from safetensors.torch import save_file

from rft.errors import RftError
from rft.evals.engine import Answer
from rft.lora_layout import Geometry

RANK, ALPHA = 4, 8


def make_model(folder: Path, seed: int = 0) -> Path:
    """A tiny gpt-oss in bf16 with random weights."""
    from rft.tiny import model as tiny
    from rft.tiny.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    config = tiny.build_config(tokenizer.eos_token_id, tokenizer.pad_token_id)
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    tensors = {n: t.bfloat16().contiguous() for n, t in tiny.build_model(config).state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"dtype": "bfloat16"}))
    tiny.save_generation_config(tokenizer, folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(folder: Path, base: Path, seed: int, rank: int = RANK, heads: int = 4) -> Path:
    folder.mkdir(parents=True)
    shape = Geometry(layers=4, hidden=128, heads=heads, kv_heads=2, head_dim=32, lora_rank=rank, tp_size=1)
    save_file(random_adapter(shape, seed), folder / "adapter_model.safetensors")
    config = {"r": rank, "lora_alpha": ALPHA, "base_model_name_or_path": str(base), "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def make_set(path: Path, count: int = 12, start: int = 0) -> Path:
    rows = [{"input": f"What is {start + i} + {i}?", "label": str(start + 2 * i)} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def text(answer: object, analysis: bool = False) -> str:
    thought = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant" if analysis else ""
    return f"{thought}<|channel|>final<|message|>\\boxed{{{answer}}}<|return|>"


class Recorded:
    """Answers from `say(adapter's step or None, request, prompt text) -> (text, finish)`; counts what it is asked.

    dies_after  answers until it fails, None for never
    """

    def __init__(self, tokenizer, say, dies_after: int | None = None):
        self.tokenizer, self.say, self.dies_after = tokenizer, say, dies_after
        self.starts, self.served, self.batches, self.closed = [], [], [], 0
        self.answered = 0

    async def start(self, *args):
        self.starts.append(args)
        return self

    async def serve(self, adapter) -> None:
        self.now = adapter.step if adapter else None
        self.served.append(self.now)

    async def generate(self, requests):
        self.batches.append(list(requests))
        for request in reversed(requests):  # an engine ends its requests in an order of its own
            if self.answered == self.dies_after:
                raise RftError("the engine died or refused a request (recorded); finished samples are kept")
            self.answered += 1
            said, finish = self.say(self.now, request, self.tokenizer.decode(list(request.token_ids)))
            yield Answer(request, self.tokenizer(said, add_special_tokens=False)["input_ids"], finish)

    async def close(self) -> None:
        self.closed += 1


def adds(step, request, prompt: str) -> tuple[str, str]:
    """Right for a share of the problems that grows with the step; every third answer by number thinks first."""
    left, right = (int(part) for part in prompt.split("What is ")[1].split("?")[0].split(" + "))
    good = (left * 7 + right * 3 + (request.number if request.temperature else 0)) % 10 < 3 + (step or 0) // 5
    return text(left + right if good else left + right + 1, request.number % 3 == 2), "stop"

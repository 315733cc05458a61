"""One measured process of `loading.py`: load a model one way, perhaps partition it and take a training step.

Prints one JSON line: peaks of this process's memory over what the interpreter and its imports took. `anon` is what
only this process can give back; `rss` also counts the pages of mapped files, which the kernel can drop.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where rft is not installed

SAMPLE_S = 0.002


class Peak:
    """The largest anonymous and resident memory while entered, sampled by a thread, in bytes above the start."""

    def __enter__(self) -> "Peak":
        self.start = memory()
        self.top = dict(self.start)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            for key, value in memory().items():
                self.top[key] = max(self.top[key], value)

    def __exit__(self, *_) -> None:
        self.seconds = time.perf_counter() - self._began
        self._stop.set()
        self._thread.join()
        for key, value in memory().items():
            self.top[key] = max(self.top[key], value)

    def above(self, base: dict[str, int]) -> dict[str, int]:
        return {key: self.top[key] - base[key] for key in base}


def memory() -> dict[str, int]:
    """{"anon": bytes, "rss": bytes} of this process now."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "VmRSS"):
            found["anon" if name == "RssAnon" else "rss"] = int(value.split()[0]) * 1024
    return found


def load(way: str, folder: str, ds_config: dict | None):
    import torch

    if way == "stock":
        from transformers import AutoModelForCausalLM, Mxfp4Config

        return AutoModelForCausalLM.from_pretrained(
            folder,
            quantization_config=Mxfp4Config(dequantize=True),
            device_map="cpu",
            dtype=torch.bfloat16,
            attn_implementation="eager",
        )
    from rft.loading.stream import load_model

    return load_model(folder, "eager", experts=way, ds_config=ds_config, quiet=True)


def partition(model, ds_config: dict):
    import deepspeed

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return deepspeed.initialize(model=model, config=ds_config)[0]


def step(model, tokens: int) -> None:
    """One micro-batch forward and backward with LoRA on q, k, v, o under gradient checkpointing, as the recipes do."""
    import torch
    from peft import LoraConfig, get_peft_model

    model.enable_input_require_grads()
    model = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.train()
    ids = torch.randint(2, model.config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))
    out = model(ids, use_cache=False).logits.float()
    torch.nn.functional.cross_entropy(out[0, :-1], ids[0, 1:]).backward()


def main() -> None:
    way, folder, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    import torch
    from peft import LoraConfig  # noqa: F401 - imports are not the model's memory
    from transformers import AutoModelForCausalLM, GptOssForCausalLM, Mxfp4Config  # noqa: F401

    torch.set_num_threads(1)
    ds_config = None
    if ranks > 1:
        import deepspeed

        deepspeed.init_distributed()
        ds_config = {
            "train_micro_batch_size_per_gpu": 1,
            "bf16": {"enabled": True},
            "zero_optimization": {"stage": 3},
        }
    found: dict = {"way": way}
    base = memory()
    with Peak() as peak:
        model = load(way, folder, ds_config)
        if ds_config:
            model = partition(model, ds_config)
    found["load"], found["load_s"] = peak.above(base), peak.seconds
    found["held"] = {key: value - base[key] for key, value in memory().items()}
    if tokens:
        with Peak() as peak:
            step(model, tokens)
        found["step"], found["step_s"] = peak.above(base), peak.seconds
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

"""`actor.py --part layers`: a model of a few layers with LoRA on attention, as the actor trains it."""

import shutil
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path

WAYS = ["stock", "dequantised", "resident"]
SMALL_HEADS = {"num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 8192}


def passes(way: str) -> tuple[str, ...]:
    return ("forward", "both")


@contextmanager
def material(args):
    """A synthetic checkpoint of the geometry, deleted afterwards; yields what its children have to be told."""
    from dataclasses import replace

    import synthetic_model
    from actor import MODELS

    if args.checkpoint:
        yield []
        return
    count, top_k, hidden, inter = MODELS[args.model]
    shape = synthetic_model.REAL.get(args.model, synthetic_model.GB)
    shape = replace(shape, num_hidden_layers=args.layers, num_local_experts=count, num_experts_per_tok=top_k,
                    hidden_size=hidden, intermediate_size=inter,
                    **(SMALL_HEADS if args.model == "small" else {}))  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="rft-actor-"))
    try:
        args.checkpoint = synthetic_model.make(folder / "model", shape)
        yield ["--checkpoint", str(args.checkpoint)]
    finally:
        shutil.rmtree(folder)


def operations(args, name: str) -> int:
    """Useful operations of all matrix products but attention's scores: 2 a weight and token, as often backward (dX)."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(args.checkpoint)
    width = config.hidden_size
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    experts = 3 * config.num_experts_per_tok * width * config.intermediate_size
    weights = config.num_hidden_layers * (experts + width * (2 * q + 2 * kv)) + config.vocab_size * width
    return 2 * args.tokens * weights * (2 if name == "both" else 1)


def held_bytes(calls: dict) -> int:
    return sum(p.nbytes for p in calls["model"].parameters())


def prepare(args, way: str) -> dict:
    import torch
    from peft import LoraConfig, get_peft_model

    from rft.logprob_mode import logprob_mode

    model = _model(args, way)
    model.enable_input_require_grads()
    lora = LoraConfig(r=32, lora_alpha=64, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    model = get_peft_model(model, lora)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.config.use_cache = False
    ids = torch.randint(0, model.config.vocab_size, (1, args.tokens), generator=torch.Generator().manual_seed(1))
    ids = ids.to(args.device)

    def log_probs():
        logits = model(ids).logits[:, :-1]
        picked = logits.gather(-1, ids[:, 1:, None]).float()[..., 0]
        return picked - torch.logsumexp(logits.float(), -1)

    def forward():
        # Upstream scores in eval(), which on a GPU is the dense path of stock's experts; this project does not.
        mode = nullcontext(model.eval()) if way == "stock" else logprob_mode(model)
        with torch.no_grad(), mode:
            log_probs()

    def both():
        model.train()
        log_probs().sum().backward()
        model.zero_grad()

    return {"forward": forward, "both": both, "model": model}


def _model(args, way: str):
    import torch

    if way == "stock":
        from transformers import AutoModelForCausalLM, Mxfp4Config

        model = AutoModelForCausalLM.from_pretrained(
            args.checkpoint, quantization_config=Mxfp4Config(dequantize=True), device_map="cpu",
            dtype=torch.bfloat16, attn_implementation="eager",
        )  # fmt: skip
        return model.to(args.device)
    from rft import attention
    from rft.loading.stream import load_model

    attention.register()
    model = load_model(
        str(args.checkpoint), args.attn, experts=way, device=args.device, check_digests=False, quiet=True
    )
    for module in model.modules():
        if args.backend and hasattr(module, "backend") and hasattr(module, "down_proj_blocks"):
            module.backend = args.backend
    return model

"""A gpt-oss model's shape, and how many parameters and bytes each of its parts has.

`Geometry` adds names, the window, LoRA targets and the KV cache to `rft.loading.placement.Geometry`, the home of the
parameter counts. Pure arithmetic on the published configurations or on a checkpoint's config.json; imports nothing
heavy, one thread. Bytes are exact: they equal what transformers builds and what the published checkpoints hold (tests).
GB = 10^9 bytes, GiB = 2^30.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rft.errors import RftError
from rft.loading import placement

BF16, FP32 = 2, 4
KNOWN = {"20b": placement.GPT_OSS_20B, "120b": placement.GPT_OSS_120B}
WINDOW = 128  # sliding window of the published models
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Geometry(placement.Geometry):
    """Sizes of a gpt-oss model; every second layer, from the first, attends to `window` tokens only."""

    name: str = ""
    window: int = WINDOW

    @property
    def q(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        return self.kv_heads * self.head_dim

    def projection(self, name: str) -> tuple[int, int]:
        """(in, out) of an attention projection."""
        return {"q_proj": (self.hidden, self.q), "o_proj": (self.q, self.hidden)}.get(name, (self.hidden, self.kv))

    # --- parameters ---

    @property
    def attention_weights(self) -> int:
        """Weights of q, k, v, o of all layers, without biases."""
        return self.layers * sum(a * b for a, b in map(self.projection, PROJECTIONS))

    @property
    def head_parameters(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def active_parameters(self) -> int:
        """Multiplied with each token: `top_k` experts, attention, router, the head; the embedding is a look-up."""
        layer = self.expert_weights // self.experts * self.top_k + self.experts * self.hidden
        return self.layers * layer + self.attention_weights + self.head_parameters

    def targeted_parameters(self, rank: int, targets: tuple[str, ...] = PROJECTIONS) -> int:
        """A and B of the attention projections named in `targets`; RftError for any other target."""
        unknown = sorted(set(targets) - set(PROJECTIONS))
        if unknown:
            raise RftError(f"--target_modules {unknown[0]}: the plan knows {', '.join(PROJECTIONS)}; leave it out")
        return self.layers * rank * sum(sum(self.projection(name)) for name in set(targets))

    # --- bytes ---

    @property
    def bf16_bytes(self) -> int:
        return placement.model_bytes(self, "dequantised")

    @property
    def mxfp4_bytes(self) -> int:
        """The checkpoint as published: experts in MXFP4, everything else in bf16."""
        return placement.model_bytes(self, "resident")

    def model_bytes(self, experts: str) -> int:
        return placement.model_bytes(self, experts)

    def experts_module_bytes(self, experts: str) -> int:
        """One layer's experts: what ZeRO-3 gathers for one module."""
        return placement.expert_layer_bytes(self, experts)

    def kv_bytes(self, tokens: int) -> int:
        """bf16 keys and values of one sequence: all tokens in the full layers, the window in the sliding ones."""
        sliding = -(-self.layers // 2)
        held = (self.layers - sliding) * tokens + sliding * min(tokens, self.window)
        return 2 * BF16 * self.kv * held


def from_config(config: dict, name: str) -> Geometry:
    """The geometry that a config.json describes; RftError where it is no gpt-oss or a size is missing."""
    kind = config.get("model_type", "gpt_oss")
    if kind != "gpt_oss":
        raise RftError(f"{name}: model_type is {kind!r}; the plan knows gpt_oss only: give such a checkpoint")
    known = asdict(placement.Geometry.of_config(config))
    return Geometry(**known, name=name, window=config.get("sliding_window") or WINDOW)


def find(model: str, folder: Path | None = None) -> Geometry:
    """The geometry of ``20b``, ``120b``, a hub id that ends in one of them, or a checkpoint folder.

    folder: what a relative path is relative to (default: the working directory)
    """
    path = (folder or Path()) / model
    if (path / "config.json").is_file():
        try:
            return from_config(json.loads((path / "config.json").read_text(encoding="utf-8")), model)
        except ValueError as error:
            raise RftError(f"{path / 'config.json'} is no valid JSON ({error}); fetch the checkpoint again") from error
    for size, sizes in KNOWN.items():
        if model == size or model.rstrip("/").endswith(f"gpt-oss-{size}"):
            return Geometry(**asdict(sizes), name=f"gpt-oss-{size}")
    raise RftError(f"--model {model}: neither 20b, 120b nor a folder with config.json; give one of these")

"""Where a parameter's values come from: a tensor of the shards as it is, or one dequantised from MXFP4 on the way.

A source fills any range of the flattened parameter, so that a ZeRO rank reads and dequantises its own slice and nothing
else. Working memory: for a plain tensor on the CPU none (the bytes are read into place), else one READ_BYTES buffer;
for MXFP4 one expert in bf16 and one tile of ROWS output rows. A source is used by one thread at a time.
"""

from collections.abc import Callable
from math import prod

import torch

from rft.errors import RftError
from rft.loading.shards import READ_BYTES, Checkpoint, Entry
from rft.mxfp4 import BLOCK, SCALE_NAN, dequantise

TORCH_DTYPES = {
    "U8": torch.uint8,
    "I8": torch.int8,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
ROWS = 256  # output rows of an expert that are dequantised at a time
Tick = Callable[[int], None]  # is told how many more bytes of the model are in place


class PlainSource:
    """A tensor as it lies in the shard; floating ones are cast to the parameter's dtype."""

    def __init__(self, entry: Entry):
        if entry.dtype not in TORCH_DTYPES:
            known = ", ".join(TORCH_DTYPES)
            raise RftError(f"{entry.shard}: {entry.name} has dtype {entry.dtype}, no weight's ({known}); convert it")
        self.entry = entry
        self.shape = entry.shape
        self.dtype = TORCH_DTYPES[entry.dtype]
        self.is_scale = entry.name.endswith("_scales") and self.dtype == torch.uint8

    def fill(self, out: torch.Tensor, start: int, tick: Tick) -> None:
        """out (n,) contiguous, any device: elements start … start + n of the flattened tensor."""
        size = self.dtype.itemsize
        straight = out.dtype == self.dtype and out.device.type == "cpu"
        step = READ_BYTES // size
        buffer = None if straight else torch.empty(min(step, len(out)), dtype=self.dtype)
        for at in range(0, len(out), step):
            part = out[at : at + step]
            target = part if straight else buffer[: len(part)]
            self.entry.read_into(target.view(torch.uint8).numpy(), (start + at) * size)
            if self.is_scale and bool((target == SCALE_NAN).any()):
                raise RftError(f"{self.entry.shard}: {self.entry.name} holds {SCALE_NAN}, NaN in E8M0; fetch it again")
            if not straight:
                part.copy_(target)
            tick(part.nbytes)


class Mxfp4Source:
    """An expert tensor (E, in, out) from its ``_blocks`` (E, out, in/32, 16) and ``_scales`` (E, out, in/32)."""

    def __init__(self, blocks: Entry, scales: Entry):
        matches = len(blocks.shape) == 4 and blocks.shape[-1] == BLOCK // 2 and blocks.shape[:-1] == scales.shape
        if not matches or (blocks.dtype, scales.dtype) != ("U8", "U8"):
            raise RftError(
                f"{blocks.shard}: {blocks.name}, {blocks.dtype} {list(blocks.shape)}, and {scales.name}, "
                f"{scales.dtype} {list(scales.shape)}, are no MXFP4 pair (U8 [E, out, in/32, 16] and [E, out, in/32]); "
                "fetch it again"
            )
        self.blocks, self.scales = blocks, scales
        experts, rows, groups, _ = blocks.shape
        self.shape = (experts, groups * BLOCK, rows)
        self.dtype = torch.bfloat16

    def fill(self, out: torch.Tensor, start: int, tick: Tick) -> None:
        """out (n,) contiguous, any device: elements start … start + n of the flattened (E, in, out) tensor."""
        one = prod(self.shape[1:])
        whole = None
        for expert in range(start // one, -(-(start + len(out)) // one)):
            begin, end = max(start, expert * one), min(start + len(out), (expert + 1) * one)
            part = out[begin - start : end - start]
            if len(part) == one:
                self._expert_into(part.view(self.shape[1:]), expert)
            else:  # the slice begins or ends within this expert
                if whole is None:
                    whole = torch.empty(self.shape[1:], dtype=out.dtype, device=out.device)
                self._expert_into(whole, expert)
                part.copy_(whole.view(-1)[begin - expert * one : end - expert * one])
            tick(part.nbytes)

    def _expert_into(self, target: torch.Tensor, expert: int) -> None:
        """target (in, out), on the device that dequantises."""
        _, rows, groups, half = self.blocks.shape
        blocks = torch.empty(min(ROWS, rows), groups, half, dtype=torch.uint8)
        scales = torch.empty(min(ROWS, rows), groups, dtype=torch.uint8)
        for row in range(0, rows, ROWS):
            count = min(ROWS, rows - row)
            at = expert * rows + row
            self.blocks.read_into(blocks[:count].numpy(), at * groups * half)
            self.scales.read_into(scales[:count].numpy(), at * groups)
            there = (blocks[:count].to(target.device), scales[:count].to(target.device))
            try:
                target[:, row : row + count].copy_(dequantise(*there, dtype=target.dtype).T)
            except RftError as error:
                raise RftError(f"{self.scales.shard}: {self.scales.name}, expert {expert}: {error}") from error


def source_of(checkpoint: Checkpoint, name: str, parameter: torch.Tensor) -> PlainSource | Mxfp4Source:
    """The source of a model's parameter `name` (shape and dtype are checked, values are not read yet).

    raises  RftError naming shard and tensor if the checkpoint has no such tensor, or one of another shape or kind
    """
    if name in checkpoint:
        source = PlainSource(checkpoint[name])
    elif f"{name}_blocks" in checkpoint:
        source = Mxfp4Source(checkpoint[f"{name}_blocks"], checkpoint[f"{name}_scales"])
    else:
        source = PlainSource(checkpoint[name])  # raises: nothing of that name
    entry = source.entry if isinstance(source, PlainSource) else source.blocks
    if source.shape != tuple(parameter.shape):
        raise RftError(
            f"{entry.shard}: {entry.name} gives {name} the shape {list(source.shape)}, the model expects "
            f"{list(parameter.shape)}; config.json and shards are of two models: fetch both again"
        )
    if source.dtype != parameter.dtype and not (source.dtype.is_floating_point and parameter.dtype.is_floating_point):
        raise RftError(
            f"{entry.shard}: {entry.name} is {entry.dtype}, the model expects {parameter.dtype} for {name}; "
            "fetch the checkpoint again"
        )
    return source

"""The tensors of an exported shard, as bytes, a few megabytes at a time.

A tensor is copied as it is, merged (`rft.export.changes`), dequantised, or merged and requantised, expert by expert.
Main thread; torch on the CPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rft.errors import RftError
from rft.export.changes import Change, ExpertDeltas, expert_shape, merged_matrix
from rft.export.safetensors_file import Entry, read


@dataclass(frozen=True)
class Output:
    """A tensor to write. how: copy | matrix | blocks | scales | experts; stem: an experts' weight without its form."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Entry
    how: str = "copy"
    stem: str = ""


def layout(entries: list[Entry], changes: dict[str, Change], dequantise: bool) -> list[Output]:
    """What becomes of the tensors of one shard. dequantise: experts as bf16, (E, in, out), not as blocks and scales."""
    found = []
    for entry in entries:
        stem = entry.name.removesuffix("_blocks").removesuffix("_scales")
        quantised = stem != entry.name
        if quantised and dequantise:
            if entry.name.endswith("_blocks"):
                shape = expert_shape({entry.name: entry}, stem)
                found.append(Output(stem, "BF16", shape, entry, "experts", stem))
        elif stem in changes:
            how = entry.name[len(stem) + 1 :] if quantised else "experts" if changes[stem].experts else "matrix"
            found.append(Output(entry.name, entry.dtype, entry.shape, entry, how, stem))
        else:
            found.append(Output(entry.name, entry.dtype, entry.shape, entry))
    return found


class Streams:
    """Gives the bytes of outputs that are not copied; errors: of requantising, by the weight's name."""

    def __init__(self, tensors: dict[str, Entry], changes: dict[str, Change]):
        self._tensors, self._changes = tensors, changes
        self._scales: dict[str, list] = {}  # of weights whose blocks were made first
        self.errors: dict = {}

    def of(self, output: Output) -> Iterator[bytes | bytearray | memoryview]:
        match output.how:
            case "matrix":
                yield as_bytes(merged_matrix(self._changes[output.stem], tensor(output.source)))
            case "experts":
                yield from self._experts(output)
            case "blocks":
                made = []
                for blocks, scales in self._requantised(output.stem):
                    made.append(scales)
                    yield as_bytes(blocks)
                self._scales[output.stem] = made
            case "scales":
                made = self._scales.pop(output.stem, None)
                yield from map(as_bytes, made or (scales for _, scales in self._requantised(output.stem)))

    def experts(self, stem: str) -> Iterator[tuple]:
        """Blocks (out, in/32, 16) and scales (out, in/32) of each expert of an MXFP4 weight, merged if changed."""
        if stem in self._changes:
            yield from self._requantised(stem)
        else:
            for number in range(self._tensors[f"{stem}_scales"].shape[0]):
                yield self._quantised(stem, number)

    def _experts(self, output: Output) -> Iterator[memoryview]:
        """(E, in, out) bf16, or the base's own type where it is not quantised."""
        from rft.mxfp4 import dequantise_expert

        quantised = output.source.name.endswith("_blocks")
        deltas = self._deltas(output.stem)
        for number in range(output.shape[0]):
            if quantised:
                import torch

                kind = torch.bfloat16 if deltas is None else torch.float32
                weight = dequantise_expert(*(part[None] for part in self._quantised(output.stem, number)), dtype=kind)[
                    0
                ]
                out = torch.bfloat16
            else:
                weight = tensor(output.source, number)
                out = weight.dtype
            yield as_bytes(weight if deltas is None else (weight.float() + deltas.of(number)).to(out))

    def _requantised(self, stem: str) -> Iterator[tuple]:
        import torch

        from rft.export.requantise import Error, requantise
        from rft.mxfp4 import dequantise

        error, deltas = Error(), self._deltas(stem)
        for number in range(self._changes[stem].experts):
            blocks, scales = self._quantised(stem, number)
            merged = dequantise(blocks, scales, torch.float32) + deltas.of(number).T  # (out, in)
            yield requantise(merged, blocks, scales, error)
        self.errors[stem] = error

    def _deltas(self, stem: str) -> ExpertDeltas | None:
        change = self._changes.get(stem)
        return None if change is None else ExpertDeltas(change)

    def _quantised(self, stem: str, number: int) -> tuple:
        """Blocks (out, in/32, 16) and scales (out, in/32) of one expert."""
        blocks, scales = self._tensors[f"{stem}_blocks"], self._tensors.get(f"{stem}_scales")
        if scales is None:
            raise RftError(f"{blocks.path}: {stem}_blocks has no {stem}_scales beside it; fetch the checkpoint again")
        return tensor(blocks, number), tensor(scales, number)


def tensor(entry: Entry, number: int | None = None):
    """A tensor of a file, or its part `number` along the first dimension."""
    import torch

    kinds = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "U8": torch.uint8}
    shape = entry.shape if number is None else entry.shape[1:]
    size = entry.nbytes if number is None else entry.nbytes // entry.shape[0]
    data = read(entry, 0 if number is None else number * size, size)
    return torch.frombuffer(data, dtype=kinds[entry.dtype]).view(shape)


def as_bytes(values) -> memoryview:
    import torch

    return memoryview(values.contiguous().flatten().view(torch.uint8).numpy())

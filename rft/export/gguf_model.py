"""The merged model as one GGUF file with a Modelfile: ``rft export --format gguf``.

Experts stay MXFP4 (bit for bit where the adapter does not touch them), attention, embedding and head bf16, vectors and
the router float32. One tensor in memory at a time, of the experts one weight of one layer. Main thread.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from rft.errors import RftError
from rft.export import card, gguf_file, modelfile
from rft.export.adapter import EXPERT_PARAMETERS, Adapter
from rft.export.base import Base
from rft.export.changes import expert_shape, merged_matrix, plan
from rft.export.checkpoint import REPORT, SPARE_BYTES, new_folder, report_of, seal, write_json
from rft.export.streams import Streams, tensor

FILE = "model.gguf"
WIDE = ("mlp.router.weight",)  # float32, as llama.cpp's own files have it


def export(
    adapter: Adapter,
    base: Base,
    out: Path,
    facts: dict | None = None,
    advance: Callable[[int], None] = lambda done: None,
    float32: bool = False,
) -> dict:
    """Write the folder `out` and return its report.

    float32  everything in float32, four times as large: to tell a wrong conversion from llama.cpp's rounding
    raises   RftError: as `rft.export.checkpoint.export`
    """
    from rft.evals import models

    if not base.is_mxfp4:
        raise RftError(f"--base {base.name} holds no MXFP4 experts; name the published checkpoint")
    changes = plan(adapter, base)
    tokenizer = models.tokenizer(base.folder)
    stops = gguf_file.stop_ids(base.folder, base.config)
    tensors = list(_tensors(base, float32))
    needed = sum(entry.nbytes for entry in base.tensors.values()) * (8 if float32 else 1) + SPARE_BYTES
    with new_folder(out, needed) as part:
        made = gguf_file.writer(part / FILE, base.config, out.name)
        gguf_file.add_tokenizer(made, base.folder, base.config, tokenizer.chat_template, stops)
        for name, shape, kind in tensors:
            _declare(made, name, shape, kind)
        streams = Streams(base.tensors, changes)
        try:
            made.write_header_to_file()
            made.write_kv_data_to_file()
            made.write_ti_data_to_file()
            for array in _data(base, changes, streams, float32):
                made.write_tensor_data(array)
                advance(array.nbytes)
        finally:
            made.close()
        report = report_of(adapter, base, "gguf", streams.errors)
        text = modelfile.render(f"./{FILE}", None, tokenizer, stops, facts or {})
        (part / "Modelfile").write_text(text, encoding="utf-8")
        write_json(part / REPORT, report)
        (part / "README.md").write_text(card.render(report, facts or {}, out.name), encoding="utf-8")
        seal(part, {})
    return report


def _stems(base: Base) -> Iterator[tuple[str, str]]:
    """(an experts' weight in the checkpoint, ``blk.N``) by layer."""
    for layer in range(base.config["num_hidden_layers"]):
        for name in EXPERT_PARAMETERS:
            yield f"model.layers.{layer}.mlp.experts.{name}", f"blk.{layer}"


def _parts(stem: str, block: str) -> list[str]:
    """GGUF's names of the one or two tensors that a weight of the experts becomes."""
    names = ("ffn_gate_exps", "ffn_up_exps") if stem.endswith("gate_up_proj") else ("ffn_down_exps",)
    return [f"{block}.{name}" for name in names]


def _tensors(base: Base, float32: bool) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """(name, shape in elements, F32 | BF16 | MXFP4) in the order in which `_data` gives them."""
    for name, entry in base.tensors.items():
        known = gguf_file.name_of(name)
        if known is not None:
            wide = float32 or len(entry.shape) == 1 or name.endswith(WIDE)
            yield known, entry.shape, "F32" if wide else "BF16"
        elif ".mlp.experts." not in name:
            raise RftError(f"{entry.path}: {name} has no place in llama.cpp's gpt-oss; name a gpt-oss checkpoint")
    for stem, block in _stems(base):
        experts, in_, out = expert_shape(base.tensors, stem)
        parts = _parts(stem, block)
        for part in parts:
            yield f"{part}.weight", (experts, out // len(parts), in_), "F32" if float32 else "MXFP4"
        for part in parts:
            yield f"{part}.bias", (experts, out // len(parts)), "F32"


def _declare(made, name: str, shape: tuple[int, ...], kind: str) -> None:
    import gguf
    import numpy

    of = gguf.GGMLQuantizationType[kind]
    size = {"F32": 4, "BF16": 2}.get(kind)
    if kind == "F32":
        made.add_tensor_info(name, shape, numpy.dtype("float32"), 4 * _count(shape))
    else:  # given in bytes
        bytes_ = (*shape[:-1], shape[-1] * size if size else shape[-1] // 32 * 17)
        made.add_tensor_info(name, bytes_, numpy.dtype("uint8"), _count(bytes_), raw_dtype=of)


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _data(base: Base, changes, streams: Streams, float32: bool) -> Iterator:
    """numpy arrays in the order of `_tensors`."""
    import torch

    for name, entry in base.tensors.items():
        if gguf_file.name_of(name) is None:
            continue
        values = tensor(entry)
        values = merged_matrix(changes[name], values) if name in changes else values
        if float32 or values.ndim == 1 or name.endswith(WIDE):
            yield values.float().numpy()
        else:
            yield values.bfloat16().contiguous().view(torch.uint8).numpy()
    for stem, _ in _stems(base):
        step = 2 if stem.endswith("gate_up_proj") else 1
        yield from _experts(stem, step, streams, float32)
        bias = tensor(base.tensors[f"{stem}_bias"]).float()
        for offset in range(step):
            yield bias[:, offset::step].contiguous().numpy()


def _experts(stem: str, step: int, streams: Streams, float32: bool) -> Iterator:
    import numpy

    from rft.mxfp4 import dequantise

    parts: list[list] = [[] for _ in range(step)]
    for blocks, scales in streams.experts(stem):
        for offset, part in enumerate(parts):  # gate and up rows take turns
            rows = blocks[offset::step], scales[offset::step]
            part.append((dequantise(*rows).float() if float32 else gguf_file.repack(*rows)).numpy())
    for part in parts:
        yield numpy.stack(part)
        part.clear()

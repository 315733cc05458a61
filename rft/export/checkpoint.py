"""An adapter merged into its base as a standalone checkpoint: ``rft export --format mxfp4|bf16``.

Everything is written to ``.<name>.part`` beside the target and renamed when it is complete: an interrupted export
leaves nothing that looks whole, and the next one clears it away. Shard by shard, tensor by tensor, expert by expert;
what the adapter does not touch is copied byte for byte. Main thread.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rft.dequantise import INDEX_NAME, SOURCE_KEY
from rft.errors import RftError
from rft.export import card
from rft.export.adapter import Adapter
from rft.export.base import Base
from rft.export.changes import plan
from rft.export.safetensors_file import CHUNK, Writer, encode_header, nbytes
from rft.export.streams import Output, Streams, layout
from rft.provenance import sha256

REPORT = "rft_export.json"
FORMATS = ("mxfp4", "bf16")
NOT_COPIED = ("config.json", INDEX_NAME, "README.md", "digests.json", REPORT, ".gitattributes")
SPARE_BYTES = 1 << 20  # for the small files, beside the tensors


def export(
    adapter: Adapter,
    base: Base,
    out: Path,
    form: str,
    facts: dict | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> dict:
    """Write `out`; returns its report (also in rft_export.json): base, adapter, form, errors by weight.

    facts    of the training run, for the model card (`rft.export.card.of_run`)
    advance  is told how many bytes were written
    raises   RftError: the adapter does not fit, `out` exists or cannot be written; nothing is left of it then
    """
    if form == "mxfp4" and not base.is_mxfp4:
        raise RftError(
            f"--base {base.name} holds no MXFP4 experts; name the published checkpoint, or use --format bf16"
        )
    changes = plan(adapter, base)
    shards = {path: layout(entries, changes, form == "bf16") for path, entries in base.shards.items()}
    shards = {path: outputs for path, outputs in shards.items() if outputs}  # a shard of scales alone
    with new_folder(out, sum(map(size, shards.values())) + SPARE_BYTES) as part:
        streams = Streams(base.tensors, changes)
        with ThreadPoolExecutor(1) as closing:  # a shard goes to the disk while the next one is made
            done = {
                path.name: closing.submit(_write_shard(part / path.name, outputs, streams, advance).close)
                for path, outputs in shards.items()
            }
        digests = {name: future.result() for name, future in done.items()}
        report = report_of(adapter, base, form, streams.errors)
        _write_index(part, shards)
        _copy_small(base.folder, adapter.path, part)
        write_json(part / REPORT, report)
        (part / "README.md").write_text(card.render(report, facts or {}, out.name), encoding="utf-8")
        _write_config(part, base, form)
        seal(part, digests)
    return report


def size(outputs: list[Output]) -> int:
    """Bytes of the tensors."""
    return sum(nbytes(output.dtype, output.shape) for output in outputs)


@contextmanager
def new_folder(out: Path, needed: int) -> Iterator[Path]:
    """A folder to fill that takes the name `out` when the block ends well, and is gone when it does not.

    raises  RftError: `out` exists, there is too little room, another export writes it, or a write fails
    """
    if out.exists() or out.is_symlink():
        raise RftError(f"--out {out} exists; remove it or name another folder")
    part = out.with_name(f".{out.name}.part")
    lock = None
    try:
        part.mkdir(parents=True, exist_ok=True)
        lock = os.open(part, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            os.close(lock)
            lock = None
            raise RftError(f"--out {out}: another export is writing it; wait for it or name another folder") from err
        for left in part.iterdir():  # by one that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        free = shutil.disk_usage(part).free
        if needed > free:
            raise RftError(
                f"--out {out}: {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free; free space or name "
                "another disk"
            )
        yield part
        part.rename(out)
        _sync(out.parent)
    except OSError as err:
        raise RftError(
            f"--out {out}: cannot write it ({err.strerror or err}); free space or name another disk"
        ) from err
    finally:
        if lock is not None:
            if part.exists():
                shutil.rmtree(part, ignore_errors=True)
            os.close(lock)


def _write_shard(path: Path, outputs: list[Output], streams: Streams, advance) -> Writer:
    """The writer, complete but not closed."""
    writer = Writer(path)
    try:
        writer.write(encode_header([(output.name, output.dtype, output.shape) for output in outputs]))
        for output in outputs:
            start = writer.written
            if output.how == "copy":
                for at in range(0, output.source.nbytes, CHUNK):
                    length = min(CHUNK, output.source.nbytes - at)
                    writer.copy(output.source, at, length)
                    advance(length)
            for data in streams.of(output):
                writer.write(data)
                advance(len(data))
            if writer.written - start != nbytes(output.dtype, output.shape):
                raise RftError(f"{output.source.path}: {output.name} has another size than its header says")
        return writer
    except BaseException:
        writer.abandon()
        raise


def report_of(adapter: Adapter, base: Base, form: str, errors: dict) -> dict:
    """What rft_export.json says. errors: of requantising (`Streams.errors`)."""
    return {
        "format": form,
        "base": {"name": base.shown, "fingerprint": base.fingerprint, "is_the_adapters": base.certain},
        "adapter": {
            "name": str(adapter.path.resolve().name),
            "digest": adapter.digest,
            "rank": adapter.rank,
            "alpha": adapter.alpha,
            "targets": list(adapter.targets),
        },
        "requantised": {stem: error.figures() for stem, error in sorted(errors.items())},
    }


def _write_index(part: Path, shards: dict[Path, list[Output]]) -> None:
    weight_map = {output.name: path.name for path, outputs in shards.items() for output in outputs}
    total = sum(map(size, shards.values()))
    write_json(part / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _copy_small(base: Path, adapter: Path, part: Path) -> None:
    """Tokenizer, template, generation config and whatever else the base has; the template as it was trained with."""
    for path in sorted(base.iterdir()):
        if path.is_file() and path.suffix != ".safetensors" and path.name not in NOT_COPIED:
            shutil.copyfile(path, part / path.name)
    template = adapter / "chat_template.jinja"
    if template.is_file():
        shutil.copyfile(template, part / template.name)


def _write_config(part: Path, base: Base, form: str) -> None:
    """The last file: without it nothing loads the folder."""
    config = {key: value for key, value in base.config.items() if key != SOURCE_KEY}
    if form == "bf16":
        config.pop("quantization_config", None)
        config["dtype" if "dtype" in config else "torch_dtype"] = "bfloat16"
    write_json(part / "config.json", config)


def seal(part: Path, known: dict[str, str]) -> None:
    """digests.json over every file (`known`: computed already), everything forced to the disk."""
    digests = {}
    for path in sorted(part.iterdir()):
        digests[path.name] = known.get(path.name) or sha256(path)
        if path.name not in known:
            _sync(path)
    write_json(part / "digests.json", digests)
    _sync(part / "digests.json")
    _sync(part)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a folder on some file systems
        os.fsync(handle)
    os.close(handle)


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")

"""The adapter alone as GGUF, for llama.cpp's ``--lora`` and Ollama's ADAPTER: ``rft export --format gguf-lora``.

llama.cpp takes one alpha and reads each rank from the tensors; what a target's own scaling differs by goes into its B.
Attention targets only: llama.cpp has no adapters on experts. Main thread.
"""

from pathlib import Path

from rft.errors import RftError
from rft.export import card, gguf_file, modelfile
from rft.export.adapter import Adapter, load
from rft.export.base import Base
from rft.export.changes import plan
from rft.export.checkpoint import REPORT, SPARE_BYTES, new_folder, report_of, seal, write_json

FILE = "adapter.gguf"


def export(adapter: Adapter, base: Base, out: Path, facts: dict | None = None) -> dict:
    """Write the folder `out` and return its report.

    raises  RftError: expert targets, or as `rft.export.checkpoint.export`
    """
    import gguf

    from rft.evals import models

    changes = plan(adapter, base)
    for stem, change in changes.items():
        if change.experts or gguf_file.name_of(stem) is None:
            raise RftError(f"{adapter.path}: llama.cpp takes no adapter on {stem}; merge it: --format gguf")
    tokenizer = models.tokenizer(base.folder)
    stops = gguf_file.stop_ids(base.folder, base.config)
    with new_folder(out, 2 * (adapter.path / "adapter_model.safetensors").stat().st_size + SPARE_BYTES) as part:
        made = gguf.GGUFWriter(part / FILE, gguf_file.ARCH)
        try:
            made.add_type(gguf.GGUFType.ADAPTER)
            made.add_string(gguf.Keys.Adapter.TYPE, "lora")
            made.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.alpha)
            for stem, change in sorted(changes.items()):
                pair, name = change.pair, gguf_file.name_of(stem)
                factor = pair.scaling * pair.rank / adapter.alpha
                made.add_tensor(f"{name}.lora_a", load(pair.a).numpy())
                made.add_tensor(f"{name}.lora_b", (load(pair.b) * factor).numpy())
            made.write_header_to_file()
            made.write_kv_data_to_file()
            made.write_tensors_to_file()
        finally:
            made.close()
        report = report_of(adapter, base, "gguf-lora", {})
        model = modelfile.OLLAMA_BASES.get(base.config["num_hidden_layers"], "./base.gguf")
        text = modelfile.render(model, f"./{FILE}", tokenizer, stops, facts or {})
        (part / "Modelfile").write_text(text, encoding="utf-8")
        write_json(part / REPORT, report)
        (part / "README.md").write_text(card.render(report, facts or {}, out.name), encoding="utf-8")
        seal(part, {})
    return report

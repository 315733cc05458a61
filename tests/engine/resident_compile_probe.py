"""Compiles the resident experts' kernels to machine code for a GPU that need not be here; prints what came out."""

import json
import os
import re
import subprocess
import sys
import tempfile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rft.resident import kernels

ACTIVATION = {"gate_up": "*bf16", "bias": "*bf16", "experts": "*i64", "size": "i32", "alpha": "fp32", "limit": "fp32"}
PRODUCT = {
    "rows": "*bf16", "blocks": "*u8", "scales": "*u8", "out": "*bf16", "ends": "*i32", "tile_expert": "*i64",
    "tile_row": "*i64", "experts": "i32", "depth": "i32", "columns": "i32",
}  # fmt: skip
TILE = kernels.TILES[2]
CONSTANTS = {"ROWS": TILE.rows, "COLUMNS": TILE.columns, "DEPTH": TILE.depth}
OPTIONS = {"num_warps": TILE.warps, "num_stages": TILE.stages}
COLUMNS = {"COLUMNS": kernels.ACTIVATION_COLUMNS}
CASES = {
    "decode": (
        kernels._decode_kernel,
        {"blocks": "*u8", "scales": "*u8", "out": "*i32", "size": "i32"},
        {"COUNT": kernels.DECODE_BYTES},
    ),
    "swiglu": (kernels._swiglu_kernel, ACTIVATION | {"hidden": "*bf16"}, COLUMNS),
    "swiglu_backward": (
        kernels._swiglu_backward_kernel, ACTIVATION | {"d_hidden": "*bf16", "d_gate_up": "*bf16"}, COLUMNS
    ),
    "product": (kernels._product_kernel, PRODUCT, CONSTANTS | {"TRANSPOSED": False}),
    "product_back": (kernels._product_kernel, PRODUCT, CONSTANTS | {"TRANSPOSED": True}),
}  # fmt: skip


def spilled(assembly: str) -> int:
    """Bytes that the machine code moves between registers and memory for want of registers."""
    target = re.search(r"^\.target (\w+)", assembly, re.MULTILINE)[1]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(assembly)
        file.flush()
        command = [triton.knobs.nvidia.ptxas.path, "-v", "--gpu-name", target, file.name, "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(map(int, re.findall(r"(\d+) bytes spill", said)))


def main(capability: int) -> None:
    found = {}
    for name, (kernel, signature, constants) in CASES.items():
        source = ASTSource(kernel, signature | dict.fromkeys(constants, "constexpr"), constants)
        options = OPTIONS if kernel is kernels._product_kernel else {}
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assembly = made.asm["ptx"]
        found[name] = {
            "machine_code": len(made.asm["cubin"]),
            "shared_bytes": made.metadata.shared,
            "spilled_bytes": spilled(assembly),
            "tensor_cores": "wgmma.mma_async" in assembly or "mma.sync" in assembly,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))

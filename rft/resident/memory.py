"""What one layer's resident experts need on a device beside their weights: arithmetic for plans, no measurement.

T tokens of a micro-batch, K experts a token, S = T*K rows; bf16 throughout. With gradient checkpointing one layer's are
alive at a time. Pure functions, no torch.
"""

from dataclasses import dataclass

BF16_BYTES = 2
CHUNK_EXPERTS = 32  # whose weights the grouped backend decodes at a time


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of one layer's experts beside their weights.

    kept     for backward, by autograd
    decoded  floating weights, while a product runs
    rows     routed rows in work on top of `kept`, at the most
    """

    kept: int
    decoded: int
    rows: int

    @property
    def peak(self) -> int:
        return self.kept + self.decoded + self.rows


def layer_bytes(
    tokens: int, top_k: int, experts: int, hidden: int, intermediate: int, backend: str, gradient: bool
) -> LayerBytes:
    """One layer's experts with `backend` (`rft.resident.products.BACKENDS`), with or without a backward to come."""
    row_bytes = tokens * top_k * BF16_BYTES
    # The loop's way of decoding takes as much again for its indices.
    at_a_time = {"loop": 2, "grouped": min(CHUNK_EXPERTS, experts), "triton": 0}[backend]
    decoded = at_a_time * 2 * intermediate * hidden * BF16_BYTES
    if not gradient:
        summing = row_bytes * 2 * hidden + 2 * tokens * hidden * BF16_BYTES  # two of a token's: biases' part, sum
        return LayerBytes(0, decoded, max(row_bytes * max(hidden + 2 * intermediate, 3 * intermediate), summing))
    kept = row_bytes * (2 * intermediate + hidden)
    # in backward: at the weighted sum with all of `kept` still there, at the activation with gate_up alone
    return LayerBytes(kept, decoded, row_bytes * max(2 * hidden, 3 * intermediate - hidden))

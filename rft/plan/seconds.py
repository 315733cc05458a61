"""Seconds of a training step by phase, from the work that it does and what the hardware moves a second.

An estimate to compare settings by: the hardware's figures are assumptions (`rft.plan.constants`), no GPU has measured
them; ``--calibrate RUN`` scales each phase by what a run took. Answers are taken to be of full length, so it is an
upper bound. Pure arithmetic on a `Setting`; only of GPUs: on a CPU there is no estimate.
"""

from rft.loading.placement import PASSES_LOGPROBS, PASSES_TRAIN
from rft.plan import constants as c
from rft.plan import engine
from rft.plan.geometry import BF16
from rft.plan.setting import Setting

ESTIMATED = ("generate", "old_logprob", "train", "sync", "save")


def weights_s(s: Setting) -> float:
    """One pass's weights: from the host over PCIe (--offload), from the other ranks over NVLink."""
    mine = s.model_bytes / s.ranks if s.partitioned else s.model_bytes
    host = mine / c.PCIE_BYTES_PER_S if s.offload else 0.0
    others = s.model_bytes - mine if s.partitioned else 0.0
    return host + others / c.NVLINK_BYTES_PER_S


def compute_s(s: Setting, rows: int) -> float:
    """One pass of a micro-batch of `rows`: matrix products, attention's scores, the launches of the expert loop."""
    g, n = s.geometry, rows * s.tokens
    span = s.tokens / 2 if s.attention != "eager" else s.tokens  # eager computes what the mask hides, too
    scores = 4 * n * span * g.q * g.layers
    memory = 12 * BF16 * rows * g.heads * s.tokens**2 * g.layers if s.attention == "eager" else 0
    if s.experts == "resident":
        launches = g.layers * c.RESIDENT_LAUNCH_S
        memory += 3 * g.layers * g.experts_module_bytes("dequantised")  # written once, read twice
    else:
        hit = g.experts * (1 - (1 - g.top_k / g.experts) ** n)
        launches = g.layers * hit * c.EXPERT_LAUNCH_S
    flops = 2 * g.active_parameters * n + scores
    return max(flops / (c.PEAK_FLOPS * c.COMPUTE_SHARE) + memory / (c.HBM_BYTES_PER_S * c.HBM_SHARE), launches)


def generate_s(s: Setting) -> float:
    """Decoding the longest answers: each token of a batch reads the weights of all experts that the batch hits."""
    g, tp = s.geometry, s.tensor_parallel
    batch = min(s.answers / s.engines, max(1.0, engine.cache(s).sequences), c.ENGINE_SEQUENCES)
    rounds = -(-(s.answers / s.engines) // batch)
    hit = 1 - (1 - g.top_k / g.experts) ** batch
    experts = g.layers * g.experts_module_bytes("resident")
    dense = g.mxfp4_bytes - experts - BF16 * g.head_parameters  # of the embedding only a row a token is read
    cached = batch * g.kv_bytes(s.prompt_tok + s.answer_tok // 2)
    read = (experts * hit + dense + cached) / tp / (c.HBM_BYTES_PER_S * c.HBM_SHARE)
    overhead = c.DECODE_EAGER_OVERHEAD_S if s.enforce_eager else c.DECODE_OVERHEAD_S
    prefill = 2 * g.active_parameters * s.answers / s.engines * s.prompt_tok / s.samples
    return rounds * s.answer_tok * (read + overhead) + prefill / (tp * c.PEAK_FLOPS * c.COMPUTE_SHARE)


def phases(s: Setting) -> dict[str, float]:
    """Seconds of each phase of `rft.metrics.PHASES` that can be foreseen; {} on a CPU."""
    if s.cpu or not s.engines:
        return {}
    passes = 1 + s.reference_passes
    scored = -(-s.answers // (s.ranks * s.micro_rollout))
    trained = -(-s.answers // (s.ranks * s.micro_train))
    score = passes * scored * max(PASSES_LOGPROBS * weights_s(s), compute_s(s, s.micro_rollout))
    # the backward pass multiplies twice as much as the forward one; recomputing adds another forward pass
    weights = PASSES_TRAIN if s.checkpointing else 2
    train = trained * max(weights * weights_s(s), (weights + 1) * compute_s(s, s.micro_train))
    checkpoint = 14 * s.adapter_parameters / c.CHECKPOINT_BYTES_PER_S
    found = (generate_s(s), score, train, c.SYNC_S, checkpoint)
    return dict(zip(ESTIMATED, found, strict=True))


def step_s(s: Setting) -> float:
    """A step without a save."""
    found = phases(s)
    return sum(found.values()) - found.get("save", 0.0)

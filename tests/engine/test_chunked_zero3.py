"""Chunked log-probs and tiled attention under ZeRO-3 on 2 ranks with batches of unequal length (real DeepSpeed)."""

import pytest
from ranks import run_ranks

pytestmark = [pytest.mark.engine, pytest.mark.timeout(700)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank of chunked_probe.py found. Ranks that gather a different number of times would wait for ever."""
    out = tmp_path_factory.mktemp("chunked")
    return run_ranks("chunked_probe.py", out, out)


def test_chunked_is_whole(found):
    """The same bf16 logits: log-probs within float32's rounding, gradients within bf16's."""
    for rank in found:
        assert rank["size"] > 0 and rank["whole again"] == {"log_probs": 0, "mean": 0, "gradient": 0}
        assert rank["chunked"]["log_probs"] < 1e-5 and rank["chunked"]["gradient"] < 1e-2


def test_tiled_is_eager(found):
    """Within bf16's rounding, with reentrant checkpointing. A mean: rounding may send a token to another expert."""
    for rank in found:
        assert 0 < rank["tiled"]["mean"] < 0.02 and rank["tiled"]["gradient"] < 0.05


def test_the_head_is_partitioned_between_its_uses(found):
    for rank in found:
        assert rank["released"] == {name: [True, True] for name in ("whole", "chunked", "tiled", "whole again")}

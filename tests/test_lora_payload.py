"""The adapter on its way to the engines: packing, shards, digests, certificates."""

import pytest
import torch

from rft import lora_payload
from rft.lora_payload import Geometry
from rft.lora_sync import check_certificate

RANK = 4


def geometry(tp_size=2, kv_heads=2):
    return Geometry(layers=2, hidden=16, heads=4, kv_heads=kv_heads, head_dim=8, lora_rank=RANK, tp_size=tp_size)


def adapter(shape=None, seed=0):
    shape = shape or geometry()
    generator = torch.Generator().manual_seed(seed)
    return {
        f"base_model.model.model.layers.{layer}.self_attn.{projection}.lora_{kind}.weight": torch.randn(
            size, generator=generator
        ).bfloat16()
        for layer in range(shape.layers)
        for projection in ("q_proj", "k_proj", "v_proj", "o_proj")
        for kind, size in shape.expected(projection).items()
    }


def test_a_payload_comes_back_whole():
    tensors = adapter()
    meta, back = lora_payload.unpack(lora_payload.pack(tensors, 7, 0.5, geometry()))
    assert meta["version"] == 7 and meta["scaling"] == 0.5 and meta["kv_heads"] == 2
    assert back.keys() == tensors.keys() and all(torch.equal(back[n], tensors[n]) for n in tensors)


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_payload_cut_short_is_refused(cut):
    with pytest.raises(ValueError, match="damaged"):
        lora_payload.unpack(lora_payload.pack(adapter(), 1, 2.0, geometry())[:cut])


@pytest.mark.parametrize(("tp_size", "kv_heads"), [(1, 2), (2, 2), (4, 2), (4, 1), (2, 4)])
def test_shards_are_what_the_engine_computes_with(tp_size, kv_heads):
    """Side paths of all ranks together equal s (x A^T) B^T of each projection, without a word between ranks."""
    shape = geometry(tp_size, kv_heads)
    tensors = {name: t.double() for name, t in adapter(shape).items()}
    found = lora_payload.by_layer(tensors, shape)
    x, heads = torch.randn(3, 16, dtype=torch.float64), torch.randn(3, 32, dtype=torch.float64)
    outputs = {name: [] for name in ("q_proj", "k_proj", "v_proj")}
    summed = torch.zeros(3, 16, dtype=torch.float64)
    for rank in range(tp_size):
        a, b = lora_payload.shard(found, shape, 1, "qkv_proj", rank)
        offset = 0
        for i, name in enumerate(outputs):
            rows = shape.rows(name, rank)
            part = b[offset : offset + rows.stop - rows.start]
            offset += rows.stop - rows.start
            outputs[name].append((rows.start, x @ a[i * RANK : (i + 1) * RANK].T @ part.T))
        a, b = lora_payload.shard(found, shape, 1, "o_proj", rank)
        summed += heads[:, shape.rows("o_proj", rank)] @ a.T @ b.T
    for name, parts in outputs.items():
        whole = x @ found[1, name, "A"].T @ found[1, name, "B"].T
        distinct = dict(parts)  # replicated KV heads come from several ranks
        torch.testing.assert_close(torch.cat([distinct[start] for start in sorted(distinct)], -1), whole)
    torch.testing.assert_close(summed, heads @ found[1, "o_proj", "A"].T @ found[1, "o_proj", "B"].T)


def test_digest_sees_every_bit_and_every_place():
    shape, tensors = geometry(), adapter()
    found = lora_payload.by_layer(tensors, shape)
    wanted = [lora_payload.expected_digest(found, shape, rank) for rank in range(2)]
    assert wanted[0] != wanted[1]
    one, other = (f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_B.weight" for layer in (0, 1))
    swapped = {**tensors, one: tensors[other], other: tensors[one]}
    assert lora_payload.expected_digest(lora_payload.by_layer(swapped, shape), shape, 0) != wanted[0]
    flipped = tensors[one].clone()
    flipped.view(torch.int16)[0, 0] ^= 1
    assert lora_payload.expected_digest(lora_payload.by_layer({**tensors, one: flipped}, shape), shape, 0) != wanted[0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: {**t, "model.layers.0.mlp.experts.lora_A.weight": torch.zeros(1)}, "no LoRA tensor of an attention"),
        (lambda t: {k: v for k, v in t.items() if "0.self_attn.k_proj.lora_B" not in k}, "A or B is missing"),
        (lambda t: {k: v[:, :2] if "lora_B" in k else v for k, v in t.items()}, "has shape"),
        (lambda t: {k.replace("layers.1", "layers.5"): v for k, v in t.items()}, "in one of 2 layers"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(change, match):
    with pytest.raises(ValueError, match=match):
        lora_payload.by_layer(change(adapter()), geometry())


def answer(version=3, digests=("a", "b"), reset=True):
    ranks = [{"rank": r, "tp_size": 2, "version": version, "digest": d} for r, d in enumerate(digests)]
    return {"ranks": ranks[::-1], "prefix_cache_reset": reset}


def test_a_true_certificate_passes():
    check_certificate(answer(), 0, 3, ["a", "b"])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (answer(version=2), "engine 1 rank 0 serves adapter version 2, the trainer has 3"),
        (answer(digests=("a", "x")), "engine 1 rank 1 holds digest x"),
        (answer(digests=("a",)), "1 ranks answered, expected 2"),
        (answer(reset=False), "did not reset its prefix cache"),
        (answer(reset=None), "did not reset its prefix cache"),
    ],
)
def test_a_false_certificate_stops_the_run(given, match):
    with pytest.raises(RuntimeError, match=match):
        check_certificate(given, 1, 3, ["a", "b"])

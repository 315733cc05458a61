"""Attention with sinks, tiled: outputs and gradients against the formula, bf16 against eager, memory."""

import random

import pytest
import torch
from attention_kit import SCALE, by_hand, counted, dense, make, padded, peak_bytes, visible

from rft.attention_spans import Blocks, Keys
from rft.attention_tiled import sink_attention

SMALL = Blocks(queries=8, keys=5)
NAMES = ("query", "key", "value", "sinks")


def compare(inputs, real, window, blocks, tolerance=1e-12):
    """Output and the four gradients against `dense` in float64, at every query that counts."""
    query, key = inputs[:2]
    length, total = query.shape[2], key.shape[2]
    keep = counted(real, length)[:, :, None, None]
    wanted = dense(*inputs, visible(total, length, window, real)) * keep
    found = sink_attention(*inputs, Keys.from_mask(real, *real.shape), window=window, scale=SCALE, blocks=blocks)
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)
    slope = torch.randn(wanted.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    expected, actual = (torch.autograd.grad(out, inputs, slope) for out in (wanted, found))
    for name, a, b in zip(NAMES, actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("side, window", [("none", None), ("none", 3), ("left", None), ("right", 1), ("left", 2)])
def test_gradcheck(side, window):
    """Numerical derivatives in float64, sinks included."""
    real = padded(2, 5, side)
    keys = Keys.from_mask(real, 2, 5)

    def attend(*inputs):
        return sink_attention(*inputs, keys, window=window, scale=SCALE, blocks=Blocks(3, 2))

    assert torch.autograd.gradcheck(attend, make(2, 2, 1, 5, dim=2))


def test_the_formula():
    """The reference of the other tests against the definition, written out, and so is the tiled form."""
    inputs, real = make(length=7), padded(2, 7, "left", seed=1)
    seen, keep = visible(7, 7, 4, real), counted(real, 7)[:, :, None, None]
    wanted = by_hand(*inputs, seen)
    torch.testing.assert_close(dense(*inputs, seen), wanted, rtol=0, atol=1e-12)
    found = sink_attention(*inputs, Keys.from_mask(real, 2, 7), window=4, scale=SCALE, blocks=SMALL)
    assert not keep.all()
    torch.testing.assert_close(found, wanted * keep, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_any_shape(seed):
    """Shapes, padding, window, tile sizes and cache lengths at random, one token included."""
    pick = random.Random(seed)
    groups, total = pick.choice([1, 2, 3]), pick.choice([1, 2, 7, 8, 9, 17])
    length = total if pick.random() < 0.7 else pick.randint(1, total)
    inputs = make(
        pick.randint(1, 3), groups * pick.choice([1, 2]), groups, length, total, pick.choice([1, 4]), seed=seed
    )
    real = padded(inputs[0].shape[0], total, pick.choice(["none", "left", "right", "holes"]), seed)
    blocks = Blocks(pick.randint(1, 9), pick.randint(1, 9))
    compare(inputs, real, pick.choice([None, 1, 2, 5, 30]), blocks)


@pytest.mark.parametrize("total", [127, 128, 129, 257])
@pytest.mark.parametrize("window", [None, 128])
def test_lengths_around_window_and_tile(total, window):
    """gpt-oss's window and the tile sizes that are used, one below and one above each."""
    inputs = make(1, 2, 1, total, dim=4, seed=total)
    compare(inputs, padded(1, total, "none"), window, Blocks(128, 128))


@pytest.mark.parametrize("total", [7, 8, 9, 15, 16, 17])
@pytest.mark.parametrize("window", [7, 8, 9])
@pytest.mark.parametrize("side", ["left", "right"])
def test_lengths_around_small_tiles(total, window, side):
    compare(make(2, 2, 1, total, dim=2), padded(2, total, side, seed=total), window, Blocks(8, 8))


def test_rows_without_a_key():
    """A row that is padding alone: 0 out, 0 gradients, the sinks' too, and no NaN for its neighbour."""
    inputs, real = make(), torch.tensor([[False] * 9, [True] * 9])
    compare(inputs, real, None, SMALL)
    out = sink_attention(*inputs, Keys.from_mask(real, 2, 9), scale=SCALE)
    grads = torch.autograd.grad(out[0].sum(), inputs)
    assert not out[0].any() and not any(grad.any() for grad in grads)


def test_padding_is_not_read():
    """NaN in a padded row's keys and values stays where it is."""
    query, key, value, sinks = make()
    real = padded(2, 9, "left", seed=3)
    wanted = sink_attention(query, key, value, sinks, Keys.from_mask(real, 2, 9), scale=SCALE)
    dirty = [tensor.detach().masked_fill(~real[:, None, :, None], torch.nan) for tensor in (key, value)]
    assert not real.all()
    assert torch.equal(sink_attention(query, *dirty, sinks, Keys.from_mask(real, 2, 9), scale=SCALE), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 6])
def test_a_row_is_the_same_alone(dtype, window):
    """Bit for bit, output and gradients, whatever its padding and its neighbours: what is scored is what is trained."""
    inputs = make(3, length=21, dtype=dtype)
    for side in ("left", "right"):
        real = padded(3, 21, side, seed=4)
        out = sink_attention(*inputs, Keys.from_mask(real, 3, 21), window=window, scale=SCALE, blocks=SMALL)
        slope = torch.ones_like(out)
        grads = torch.autograd.grad(out, inputs[:3], slope)
        for row in range(3):
            at = real[row].nonzero()[:, 0]
            alone = [t[row : row + 1, :, at].detach().requires_grad_() for t in inputs[:3]]
            single = sink_attention(*alone, inputs[3], window=window, scale=SCALE, blocks=SMALL)
            assert torch.equal(single[0], out[row, at])
            for a, b in zip(torch.autograd.grad(single, alone, slope[:1, at]), grads, strict=True):
                assert torch.equal(a[0], b[row][:, at])


def test_any_strides():
    """Transposed and expanded inputs, as the model passes them."""
    inputs = [t.detach() for t in make(length=11)]
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in inputs[:3]]
    strided[1] = inputs[1][:1].expand(2, -1, -1, -1)
    inputs[1] = strided[1].contiguous()
    strided = [t.requires_grad_() for t in strided] + [inputs[3]]
    plain = [t.requires_grad_() for t in inputs[:3]] + [inputs[3]]
    results = []
    for tensors in (strided, plain):
        out = sink_attention(*tensors, scale=SCALE, blocks=SMALL)
        results.append(
            (out, *torch.autograd.grad(out, tensors[:3], torch.ones_like(out).transpose(1, 2).transpose(1, 2)))
        )
    assert not strided[0].is_contiguous() and all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("window", [None, 16])
def test_bf16_is_no_worse_than_eager(window):
    """Root mean square error against float64, of the output and each gradient."""
    inputs = make(2, 8, 2, 70, dim=16, dtype=torch.bfloat16, seed=5)
    real = padded(2, 70, "left", seed=2)
    seen, keep = visible(70, 70, window, real), counted(real, 70)[:, :, None, None]
    slope = (torch.randn(2, 70, 8, 16, generator=torch.Generator().manual_seed(1)) * keep).bfloat16()
    exact = [t.detach().double().requires_grad_() for t in inputs]
    wanted = dense(*exact, seen)
    expected = [wanted * keep, *torch.autograd.grad(wanted, exact, slope.double())]
    errors = {}
    for name, attend in (
        ("eager", lambda: dense(*inputs, seen)),
        (
            "tiled",
            lambda: sink_attention(*inputs, Keys.from_mask(real, 2, 70), window=window, scale=SCALE, blocks=SMALL),
        ),
    ):
        out = attend()
        found = [out * keep, *torch.autograd.grad(out, inputs, slope)]
        errors[name] = [(a.double() - b).square().mean().sqrt().item() for a, b in zip(found, expected, strict=True)]
    for part, ours, theirs in zip(("output", *NAMES), errors["tiled"], errors["eager"], strict=True):
        assert ours <= theirs, (part, ours, theirs)


def test_large_scores_do_not_overflow():
    inputs = make(dtype=torch.float32)
    big = [(inputs[0] * 1e4).detach(), (inputs[1] * 1e4).detach(), *inputs[2:]]
    for sinks in (inputs[3], inputs[3] + 1e5, inputs[3] - 1e30):
        out = sink_attention(*big[:3], sinks, scale=SCALE, blocks=SMALL)
        exact = [tensor.double() for tensor in (*big[:3], sinks)]
        wanted = dense(*exact, visible(9, 9, None, padded(2, 9, "none")))
        torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)


def test_frozen_sinks_get_no_gradient():
    query, key, value, sinks = make()
    out = sink_attention(query, key, value, sinks.detach(), scale=SCALE)
    assert all(grad is not None for grad in torch.autograd.grad(out.sum(), (query, key, value)))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("window", [None, 32])
def test_memory_is_linear_in_length(window, backward):
    """Twice the tokens, about twice the memory, where all scores at once take 4 times as much."""

    def peak(length, attend):
        inputs = make(1, 16, 2, length, dim=4, dtype=torch.float32)

        def run():
            out = attend(inputs, length)
            if backward:
                out.sum().backward()

        return peak_bytes(run)

    def tiled(inputs, length):
        return sink_attention(*inputs, window=window, scale=SCALE, blocks=Blocks(32, 32))

    def eager(inputs, length):
        return dense(*inputs, visible(length, length, window, padded(1, length, "none")))

    peaks = {attend: [peak(length, attend) for length in (256, 512)] for attend in (tiled, eager)}
    assert peaks[tiled][1] < 2.2 * peaks[tiled][0] < peaks[eager][0] / 2
    assert peaks[eager][1] > 3.5 * peaks[eager][0]


def test_sinks_may_be_taken_away_in_between():
    """As ZeRO-3 does with a frozen parameter: empty between forward and backward; no gradient needs it."""
    *inputs, sinks = make()
    sinks = torch.nn.Parameter(sinks.detach(), requires_grad=False)
    gradients = []
    for partitioned in (False, True):
        out = sink_attention(*inputs, sinks, scale=SCALE, blocks=SMALL)
        if partitioned:
            sinks.data = torch.empty(0, dtype=sinks.dtype)
        gradients.append(torch.autograd.grad(out.sum(), inputs))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_shapes_that_do_not_fit():
    query, key, value, sinks = make()
    for wrong in (
        (query[:, :3], key, value, sinks),
        (query, key[:, :, :5], value[:, :, :5], sinks),
        (query, key, value, sinks[:1]),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            sink_attention(*wrong, scale=SCALE)

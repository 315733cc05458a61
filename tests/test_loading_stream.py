"""The streamed model against transformers, tensor by tensor and bit by bit, and what it says of bad checkpoints."""

# ruff: noqa: F811 (a fixture and its argument share a name)

import pytest
import torch
from loading_kit import SMALL, copied, edit_json, shard, small  # noqa: F401
from safetensors.torch import load_file, save_file

from rft.dequantise import dequantise_checkpoint
from rft.errors import RftError
from rft.loading import sources
from rft.loading.shards import Checkpoint
from rft.loading.sources import source_of
from rft.loading.stream import load_model, streams
from rft.tiny.model import load_checkpoint

GATE = "model.layers.1.mlp.experts.gate_up_proj"


def message(folder, **options) -> str:
    with pytest.raises(RftError) as error:
        load_model(str(folder), "eager", quiet=True, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def rewrite(path, change) -> None:
    """A shard saved anew with its tensors as `change` leaves them."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.fixture(scope="module")
def plain(small):
    return load_checkpoint(small)


def test_dequantised_is_transformers_model(small, plain):
    model = load_model(str(small), "eager", quiet=True)
    wanted, got = dict(plain.named_parameters()), dict(model.named_parameters())
    assert list(got) == list(wanted)
    for name, parameter in got.items():
        assert parameter.dtype == wanted[name].dtype and torch.equal(parameter, wanted[name]), name
        assert parameter.device.type == "cpu" and parameter.requires_grad
    ids = torch.randint(2, SMALL.vocab_size, (2, 21), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain(ids).logits)
    assert model.training == plain.training is False
    assert model.config.to_dict() == plain.config.to_dict()
    assert (model.name_or_path, model.dtype) == (plain.name_or_path, plain.dtype)


def test_rotary_frequencies_are_fp32_and_transformers(small, plain):
    for form in ("dequantised", "resident"):
        buffers = dict(load_model(str(small), "eager", experts=form, quiet=True).named_buffers())
        assert list(buffers) == ["model.rotary_emb.inv_freq"]
        for name, wanted in plain.named_buffers():
            assert buffers[name].dtype == torch.float32 and torch.equal(buffers[name], wanted)


def test_resident_experts_are_the_files_bytes(small, plain):
    model = load_model(str(small), "eager", experts="resident", quiet=True)
    files = {name: tensor for path in Checkpoint(small).shards for name, tensor in load_file(path).items()}
    got = dict(model.named_parameters())
    assert got.keys() == files.keys()
    for name, tensor in files.items():
        assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor), name
        assert got[name].requires_grad == ("experts" not in name)
    ids = torch.randint(2, SMALL.vocab_size, (2, 21), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (model(ids).logits.float() - plain(ids).logits.float()).abs().max() < 0.05


def test_fp32_is_the_exact_value(small):
    exact = dict(load_model(str(small), "eager", dtype=torch.float32, quiet=True).named_parameters())
    for name, parameter in load_model(str(small), "eager", quiet=True).named_parameters():
        assert exact[name].dtype == torch.float32 and torch.equal(exact[name], parameter.float()), name


def test_a_bf16_checkpoint_loads_too(small, plain, tmp_path):
    twin = dequantise_checkpoint(small, tmp_path / "twin")
    model = load_model(str(twin), "eager", quiet=True)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name)), name
    assert "no MXFP4 checkpoint" in message(twin, experts="resident")


@pytest.mark.parametrize("name", [GATE, f"{GATE}_blocks", "model.embed_tokens.weight"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_any_slice_is_the_whole_tensors(small, plain, monkeypatch, name, dtype):
    """Whatever range a rank owns, across experts, tiles and read buffers."""
    monkeypatch.setattr(sources, "ROWS", 7)
    monkeypatch.setattr(sources, "READ_BYTES", 1000)
    checkpoint = Checkpoint(small)
    if name.endswith("_blocks"):
        dtype = torch.uint8
        whole = load_file(checkpoint[name].shard)[name]
    else:
        whole = plain.get_parameter(name).detach().to(dtype)
    source, flat = source_of(checkpoint, name, whole), whole.reshape(-1)
    one = flat.numel() // whole.shape[0]
    generator = torch.Generator().manual_seed(3)
    ranges = [(0, len(flat)), (one, 2 * one), (one - 1, one + 1), (0, 1), (len(flat) - 1, len(flat)), (5, 5)]
    ranges += [tuple(sorted(torch.randint(0, len(flat), (2,), generator=generator).tolist())) for _ in range(20)]
    for start, end in ranges:
        out, told = torch.full((end - start,), 77, dtype=dtype), []
        source.fill(out, start, told.append)
        assert torch.equal(out, flat[start:end]), (start, end)
        assert sum(told) == out.nbytes


def test_config_and_shards_of_two_models(copied):
    edit_json(copied / "config.json", intermediate_size=128)
    text = message(copied)
    assert "gate_up_proj_blocks" in text and str([5, 64, 192]) in text and str([5, 64, 256]) in text
    assert str([5, 192, 2, 16]) in message(copied, experts="resident")


def test_nothing_is_read_before_all_shapes_are_right(copied, monkeypatch):
    rewrite(shard(copied, 2), lambda tensors: tensors.pop(f"{GATE}_bias"))
    monkeypatch.setattr(sources.PlainSource, "fill", None)  # calling it would fail
    (copied / "model.safetensors.index.json").unlink()
    assert f"no shard holds {GATE}_bias" in message(copied)


@pytest.mark.parametrize("experts", ["dequantised", "resident"])
def test_scales_that_are_missing_or_not_scales(copied, experts):
    (copied / "model.safetensors.index.json").unlink()
    path = shard(copied, 2)
    scales = load_file(path)[f"{GATE}_scales"]
    cases = [(scales.float(), "F32"), (scales[:, :-1].contiguous(), str(list(scales[:, :-1].shape)))]
    for wrong, says in cases:
        rewrite(path, lambda tensors, wrong=wrong: tensors.update({f"{GATE}_scales": wrong}))
        text = message(copied, experts=experts)
        assert f"{GATE}_scales" in text and says in text
    poisoned = scales.clone()
    poisoned[3, 5, 1] = 255
    rewrite(path, lambda tensors: tensors.update({f"{GATE}_scales": poisoned}))
    text = message(copied, experts=experts)
    assert path.name in text and f"{GATE}_scales" in text and "NaN" in text
    rewrite(path, lambda tensors: tensors.pop(f"{GATE}_scales"))
    assert f"no shard holds {GATE}_scales" in message(copied, experts=experts)


def test_what_it_refuses(copied, tmp_path):
    assert "--experts cached: use one of resident, dequantised" in message(copied, experts="cached")
    edit_json(copied / "config.json", model_type="qwen2")
    assert "gpt_oss only" in message(copied)
    assert "--pretrain" in message(tmp_path / "nowhere")


def test_attention_that_drops_the_sinks_is_refused(small):
    with pytest.raises(RftError, match="drops the attention sinks"):
        load_model(str(small), "sdpa", quiet=True)


def test_which_flags_ask_for_it():
    assert streams("dequantised", stream_load=False, load_in_4bit=True) is False
    assert streams("dequantised", stream_load=True, load_in_4bit=False) is True
    assert streams("resident", stream_load=False, load_in_4bit=False) is True
    for flag in ("load_in_4bit", "use_liger_kernel"):
        with pytest.raises(RftError, match=f"--{flag}"):
            streams("resident", stream_load=False, **{flag: True})


def test_a_log_gets_one_line(small, capfd, monkeypatch):
    from rft.loading import bar

    load_model(str(small), "eager")
    assert [line for line in capfd.readouterr().err.splitlines() if line.startswith("load")] != []
    monkeypatch.setattr(bar, "LINE_S", 0.0)
    load_model(str(small), "eager")
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("loading")]
    assert len(lines) > 10 and "0 s left" in lines[-1]
    load_model(str(small), "eager", quiet=True)
    assert "load" not in capfd.readouterr().err


def test_tied_weights_are_read_once(copied):
    (copied / "model.safetensors.index.json").unlink()
    edit_json(copied / "config.json", tie_word_embeddings=True)
    rewrite(shard(copied, 0), lambda tensors: tensors.pop("lm_head.weight"))
    model = load_model(str(copied), "eager", quiet=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight

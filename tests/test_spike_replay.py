"""A dumped spike, replayed: same gradient, planted prompt on top (rft/spike_gradient.py, rft/replay_spike.py)."""

import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch
from spike_kit import PROMPT, arguments, one_thread, plan, rows, set_adapter, write_checkpoint  # noqa: F401

from rft import lora_params, replay_spike, spike_dump, spike_gradient
from rft.errors import RftError

pytest.importorskip("deepspeed")
PLANTED = 4  # of six samples


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return spike_dump.settings(arguments(write_checkpoint(tmp_path_factory.mktemp("spike") / "model")))


@pytest.fixture(scope="module")
def adapter(settings):
    """LoRA tensors as a bf16 training holds them."""
    from openrlhf.models import Actor

    names = ("attn_implementation", "lora_rank", "lora_alpha", "target_modules")
    made = Actor(settings["pretrain"], **{name: settings[name] for name in names})
    set_adapter(made.model)
    return {name: tensor.to(torch.bfloat16) for name, tensor in lora_params.gathered(made.model).items()}


@pytest.fixture(scope="module")
def actor(settings, adapter):
    return spike_gradient.load_actor(settings, adapter, "cpu")


def gradient_by_hand(settings, adapter, ranks) -> tuple[float, float]:
    """(2-norm, loss) of the step from plain transformers and PEFT in bf16, sample by sample, one backward pass."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Mxfp4Config

    model = AutoModelForCausalLM.from_pretrained(
        settings["pretrain"],
        quantization_config=Mxfp4Config(dequantize=True),
        device_map="cpu",
        dtype=torch.bfloat16,
        attn_implementation="eager",
    )
    config = LoraConfig(r=4, lora_alpha=8, target_modules=settings["target_modules"], task_type="CAUSAL_LM")
    model = get_peft_model(model, config).train()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    for name, parameter in lora_params.lora_parameters(model).items():
        parameter.data = adapter[name].clone()
    total, tokens = 0.0, 0
    for micros in ranks:
        for micro in micros:
            e = micro.experience
            for row in range(len(e.sequences)):
                n, chosen = int(e.attention_mask[row].sum()), e.action_mask[row].bool()
                if not chosen.any():
                    continue
                ids = e.sequences[row : row + 1, :n]
                table = model(ids, position_ids=torch.arange(n)[None]).logits[0, :-1].float().log_softmax(-1)
                now = table.gather(-1, ids[0, 1:, None])[PROMPT - 1 :, 0]
                old, base, advantage = (
                    x[row][chosen] for x in (e.action_log_probs, e.base_action_log_probs, e.advantages)
                )
                ratio = (now - old).exp()
                policy = -torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage)
                total = total + (policy + 0.01 * 0.5 * (now - base) ** 2).sum()
                tokens += len(now)
    loss = total / tokens
    loss.backward()
    squares = sum(float(p.grad.double().pow(2).sum()) for p in model.parameters() if p.grad is not None)
    return squares**0.5, loss.item()


def planted(actor, scale: float):
    samples = rows(6, seed=3)
    samples[PLANTED]["advantage"] *= scale
    return plan(actor, samples)


def dump(folder, settings, adapter, ranks, norm, reason="threshold"):
    """The files of every rank, as the black box writes them."""
    for rank, micros in enumerate(ranks):
        batches = [spike_dump.micro_batch(m, m.experience.action_log_probs, kl_ctl=0.01) for m in micros]
        meta = {"optimizer_step": 7, "rank": rank, "world": len(ranks), "grad_norm": norm, "reason": reason}
        spike_dump.write(str(folder), {**meta, "settings": settings}, batches, adapter if rank == 0 else {})
    return folder / spike_dump.file_name(7, 1)


def replay(capsys, *argv) -> tuple[int, dict]:
    code = replay_spike.main([*map(str, argv), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_scaled_prompt_is_replayed_to_the_same_norm_and_named(tmp_path, settings, adapter, actor, capsys):
    ranks = planted(actor, 3000.0)
    norm, loss = gradient_by_hand(settings, adapter, ranks)
    assert norm > 50
    file = dump(tmp_path, settings, adapter, ranks, norm)
    log = tmp_path.parent / "spike_log.jsonl"
    log.write_text(json.dumps({"optimizer_step": 7, "dump": f"{tmp_path.name}/{file.name}"}) + '\n{"torn')
    code, found = replay(capsys, log, "--measure", 3)
    assert (code, found["agrees"]) == (0, True), (found["grad_norm"], norm)
    assert found["grad_norm"] == pytest.approx(norm, rel=0.01) and found["loss"] == pytest.approx(loss, rel=0.02)
    # sample 4 is row 1 of rank 1's first micro-batch: it has every one of the worst tokens, and nearly all of the norm
    assert {(t["rank"], t["micro_batch"], t["row"]) for t in found["tokens"][:3]} == {(1, 0, 1)}
    assert max(found["micro_batches"], key=lambda b: b["grad_norm"])["rank"] == 1
    assert all(token["text"] and token["grad_norm"] > 1 for token in found["tokens"][:3])
    assert found["tokens_in_step"] == sum(int(m.experience.action_mask.sum()) for ms in ranks for m in ms)
    dump(tmp_path, settings, adapter, ranks, norm * 1.03)
    assert replay(capsys, log)[0] == 1  # a norm that is 3 % off is not the same


def test_the_shares_of_all_tokens_make_up_the_gradient(tmp_path, settings, adapter, actor):
    pure = {**settings, "use_kl_loss": False}
    samples = [{**sample, "ids": sample["ids"][: PROMPT + 4]} for sample in rows(3, seed=3)]
    ranks = plan(actor, samples, ((1,), (2,)))
    dump(tmp_path, pure, adapter, ranks, 1.0)
    dumps = spike_dump.read_step(tmp_path / spike_dump.file_name(7, 0))
    found = spike_gradient.replay(actor, pure, dumps, "cpu")
    tokens = spike_gradient.token_pulls(found, dumps)
    spike_gradient.measure_tokens(actor, found, dumps, tokens, "cpu")
    assert sum(token["share"] for token in tokens) == pytest.approx(1.0, abs=0.03)
    assert all(token["pull"] >= later["pull"] for token, later in itertools.pairwise(tokens))


def test_a_gradient_that_is_not_finite_is_replayed_as_one(tmp_path, settings, adapter, actor, capsys):
    ranks = planted(actor, math.nan)
    code, found = replay(capsys, dump(tmp_path, settings, adapter, ranks, None, "nonfinite"))
    assert code == 0 and found["grad_norm"] is None and found["agrees"]
    assert {(t["rank"], t["row"]) for t in found["tokens"][:5]} == {(1, 1)}


def test_a_healthy_gradient_does_not_agree_with_one_that_is_not_finite(tmp_path, settings, adapter, actor, capsys):
    file = dump(tmp_path, settings, adapter, planted(actor, 1.0), None, "nonfinite")
    assert replay_spike.main([str(file)]) == 1
    text = capsys.readouterr().out
    assert "optimizer step 7 (nonfinite)" in text and "DISAGREE" in text and "strongest pull" in text


def test_bad_input_is_one_line(tmp_path, settings, adapter, actor):
    ranks = planted(actor, 1.0)
    file = dump(tmp_path / "a", settings, adapter, ranks, 1.0)
    torn = tmp_path / "torn.pt"
    torn.write_bytes(file.read_bytes()[:1000])
    lone = tmp_path / "b" / file.name
    lone.parent.mkdir()
    lone.write_bytes(file.read_bytes())
    log = tmp_path / "spike_log.jsonl"
    log.write_text('{"optimizer_step": 3, "dump": null, "dump_error": "disk full"}\n')
    for path, message in (
        (tmp_path / "none.pt", "no such file"),
        (torn, "no spike dump"),
        (lone, "rank0.pt missing.*copy every rank's dump"),
        (log, r"no dump of any step \(disk full\); steps with one: none"),
        (tmp_path / "no.jsonl", "No such file"),
    ):
        with pytest.raises(RftError, match=message) as caught:
            replay_spike.main([str(path)])
        assert "\n" not in str(caught.value) and str(path.parent) in str(caught.value)
    other = dump(tmp_path / "c", settings, adapter, ranks, 2.0)
    (other.parent / spike_dump.file_name(7, 0)).write_bytes((file.parent / spike_dump.file_name(7, 0)).read_bytes())
    with pytest.raises(RftError, match="of another event"):
        replay_spike.main([str(other)])
    with pytest.raises(RftError, match="no adapter"):
        spike_gradient.load_actor(settings, {}, "cpu")
    with pytest.raises(RftError, match="not of this model, first at"):
        spike_gradient.load_actor(settings, {"x.lora_A.default.weight": torch.zeros(1)}, "cpu")


def test_help_needs_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; from rft import replay_spike; replay_spike.parser().format_help(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_settings_hold_what_decides_the_loss_and_a_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    found = spike_dump.settings(SimpleNamespace(pretrain="model", eps_clip_low_high=(0.1, 0.2), other=1))
    assert found == {"pretrain": str(tmp_path / "model"), "eps_clip_low_high": [0.1, 0.2]}

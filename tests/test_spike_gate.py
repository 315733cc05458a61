"""A refused optimizer step leaves no trace in the weights (rft/spike_gate.py).

The optimizer of `spike_kit` keeps DeepSpeed's promises; the last tests check that DeepSpeed 0.18.5 makes them, on its
own code.
"""

import inspect
import json
import math
from types import SimpleNamespace

import pytest
import torch
from spike_kit import Engine, arguments, one_thread, plan, rows, set_adapter, write_checkpoint  # noqa: F401

from rft import ratio_stats, spike_dump, spike_gate, spike_gradient
from rft.errors import RftError
from rft.spike import SpikeLog

pytest.importorskip("deepspeed")


class Tokenizer:
    def decode(self, ids, skip_special_tokens):
        return " ".join(map(str, ids.tolist()))


@pytest.fixture(scope="module")
def args(tmp_path_factory):
    return arguments(write_checkpoint(tmp_path_factory.mktemp("gate") / "model"))


@pytest.fixture(scope="module")
def actor(args):
    """In float32: an AdamW step must show in every weight."""
    from openrlhf.models import Actor

    names = ("attn_implementation", "lora_rank", "lora_alpha", "target_modules")
    made = Actor(args.pretrain, **{name: getattr(args, name) for name in names})
    return made.float().train()


@pytest.fixture
def train(args, actor, tmp_path, monkeypatch):
    """Trains fresh LoRA weights on the given batches of samples; returns the engine, the log and the norms."""
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    monkeypatch.delenv("SPIKE_LOG_PATH", raising=False)

    def run(batches: list[list[dict]], on_spike="log", gate=True):
        set_adapter(actor.model)
        actor.zero_grad()  # a run that was stopped leaves its gradients
        engine = Engine(actor.model)
        settings = SimpleNamespace(**{**vars(args), "on_spike": on_spike, "param_dtype": "fp32"})
        log, loss_of, norms = SpikeLog(50.0, Tokenizer(), settings), None, []
        loss_of = spike_gradient.loss_function(spike_dump.settings(settings))
        if gate:
            spike_gate.install(engine, log)
        for samples in batches:
            (micros,) = plan(actor, samples, ((2, 1),))
            for micro in micros:
                batch = spike_dump.micro_batch(micro, torch.zeros(()), 0.0)
                loss, now = spike_gradient.micro_batch_loss(actor, loss_of, spike_dump.settings(settings), batch)
                e = micro.experience
                stats = ratio_stats.measure(now.detach() - e.action_log_probs, e.action_mask)
                log.add(e.sequences, e.action_mask, stats, micro, now, 0.0)
                loss.backward()
            engine.step()
            norms.append(log.end_step(engine.get_global_grad_norm()))
        return engine, log, norms

    return run


def samples(seed: int, scale: float = 1.0) -> list[dict]:
    found = rows(3, seed)
    found[1]["advantage"] *= scale
    return found


def lines(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "spike_log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("scale", "policy"), [(1e4, "skip"), (math.nan, "skip"), (math.nan, "log"), (math.inf, "log")])
def test_the_weights_are_those_of_a_run_without_that_batch(train, tmp_path, scale, policy):
    engine, log, norms = train([samples(1), samples(2, scale), samples(3)], policy)
    with_spike = engine.weights()
    assert log.take_counts()["skipped_steps"] == 1 and engine.lr_steps == 2 and engine.global_steps == 3
    assert norms[1] > 50 or not math.isfinite(norms[1])
    (line,) = lines(tmp_path)
    assert line["optimizer_step"] == 2 and line["action"] == "skipped"
    engine, _, _ = train([samples(1), samples(3)], policy)
    assert torch.equal(with_spike, engine.weights()) and with_spike.isfinite().all()


def test_log_takes_a_finite_spike_all_the_same(train, tmp_path):
    engine, _, _ = train([samples(1), samples(2, 1e4), samples(3)], "log")
    with_spike = engine.weights()
    assert lines(tmp_path)[0]["action"] == "logged" and engine.lr_steps == 3
    engine, _, _ = train([samples(1), samples(3)], "log")
    assert not torch.equal(with_spike, engine.weights())


def test_a_nan_reaches_the_weights_without_the_gate(train):
    """What the gate is for: the engine's own norm says 1.0."""
    engine, _, norms = train([samples(2, math.nan)], gate=False)
    assert norms == [1.0] and engine.weights().isnan().any()


def test_stop_ends_the_run_before_the_step(train, tmp_path):
    with pytest.raises(RftError, match="--on_spike is stop"):
        train([samples(1), samples(2, 1e4)], "stop")
    assert lines(tmp_path)[0]["action"] == "stopped"
    assert (tmp_path / lines(tmp_path)[0]["dump"]).is_file()


def test_the_dump_is_replayed_to_the_logged_norm(train, tmp_path, args):
    """The whole way: planted in training, caught, dumped, replayed; the dump's weights are those before the step."""
    _, _, norms = train([samples(1), samples(2, 1e4)], "log")
    line = lines(tmp_path)[0]
    dumps = spike_dump.read_step(tmp_path / line["dump"])
    settings = {**dumps[0]["meta"]["settings"], "param_dtype": "bf16"}
    actor = spike_gradient.load_actor(settings, dumps[0]["adapter"], "cpu").float()
    found = spike_gradient.replay(actor, settings, dumps, "cpu")
    assert found.grad_norm == pytest.approx(norms[1], rel=0.01) and norms[1] == line["grad_norm"]
    worst = line["worst_tokens"]
    assert {token["row"] for token in worst[:3]} == {1} and {t["micro_batch"] for t in worst[:3]} == {0}
    again = spike_gradient.token_pulls(found, dumps)
    assert {(t["row"], t["position"]) for t in again[:3]} == {(t["row"], t["position"]) for t in worst[:3]}


def test_a_continued_run_counts_on_and_drops_what_it_takes_again(args, actor, tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    (tmp_path / "spike_log.jsonl").write_text('{"optimizer_step": 4}\n{"optimizer_step": 6}\n')
    engine, log = Engine(actor.model), SpikeLog(50.0, Tokenizer())
    engine.global_steps = 5
    spike_gate.install(engine, log)
    assert [line["optimizer_step"] for line in lines(tmp_path)] == [4]
    log.judge(60.0)
    assert lines(tmp_path)[-1]["optimizer_step"] == 6


def test_a_second_trainer_on_one_engine_has_one_gate(actor, tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    engine, first, second = Engine(actor.model), SpikeLog(50.0, Tokenizer()), SpikeLog(50.0, Tokenizer())
    for log in (first, second):
        spike_gate.install(engine, log)
    set_adapter(actor.model)
    for group in engine.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    engine.step()
    assert (first.optimizer_step, second.optimizer_step) == (0, 1)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD([torch.zeros(1)]), SimpleNamespace(_get_norm_groups=None)])
def test_an_optimizer_that_cannot_be_guarded_is_refused(optimizer):
    if isinstance(optimizer, SimpleNamespace):
        optimizer.dtype = torch.float16
    engine = SimpleNamespace(optimizer=optimizer)
    with pytest.raises(RftError, match=r"cannot guard .*use --zero_stage 3 and --param_dtype bf16"):
        spike_gate.install(engine, SpikeLog(50.0, Tokenizer()))


def test_the_norm_is_that_of_all_groups_and_of_none_that_is_not_finite():
    def optimizer(*groups):
        return SimpleNamespace(_get_norm_groups=lambda: [torch.tensor(g) for g in groups], loss_scale=2.0)

    assert spike_gate.global_norm(optimizer(3.0, 4.0)) == 2.5
    assert math.isnan(spike_gate.global_norm(optimizer(3.0, -1.0)))
    assert math.isnan(spike_gate.global_norm(optimizer(math.nan)))


def test_deepspeed_hides_what_is_not_finite_and_drops_a_step_that_overflows():
    """Its own norm puts -1 for NaN, and `step` returns early, gradients dropped, where `overflow` is set."""
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.utils import mask_nan_or_inf_with_val_inplace
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3 as Stage3

    norm = torch.tensor([math.nan, math.inf, 2.0])
    mask_nan_or_inf_with_val_inplace(norm)
    assert norm.tolist() == [-1.0, -1.0, 2.0]
    assert "err = torch.tensor(-1.0" in inspect.getsource(inspect.getmodule(Stage3))

    real = Stage3.__new__(Stage3)
    taken = []
    real.dtype, real.loss_scaler, real.custom_loss_scaler = torch.bfloat16, LossScaler(1.0), False
    real.offload_optimizer, real.fp16_groups, real.averaged_gradients = False, [], {0: [torch.ones(1)]}
    real._pre_step = real._partition_all_parameters = lambda: None
    real._swappable_optimizer_subgroup = lambda _: False
    real.swap_optimizer = False
    real._loco_err_buf_update = lambda *_: None  # of a feature that is off; it asks for the process group's rank
    real.zero_grad = lambda set_to_none: taken.append("gradients dropped")
    real._get_norm_groups = lambda: taken.append("norm") or [torch.tensor(1.0)]
    real.overflow = True
    Stage3.step(real)
    assert taken == ["gradients dropped"] and real.averaged_gradients == {}
    source = inspect.getsource(DeepSpeedEngine._take_model_step)
    assert source.index("overflow = self.optimizer.overflow") < source.index("self.lr_scheduler.step")

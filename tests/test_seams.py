"""Small seams of the series, each called as the patched code calls it."""

import copy
from types import SimpleNamespace

import pytest
import torch

from rft import logprob_mode, rope, schedule


class Experts(torch.nn.Module):
    pass


class GptOssExperts(Experts):
    pass


def test_no_empty_optimizer_group():
    from openrlhf.utils.deepspeed.deepspeed_utils import get_optimizer_grouped_parameters

    model = torch.nn.ModuleDict({"proj": torch.nn.Linear(2, 2, bias=False), "norm": torch.nn.LayerNorm(2)})
    assert len(get_optimizer_grouped_parameters(model, 0.1)) == 2
    model["norm"].requires_grad_(False)
    groups = get_optimizer_grouped_parameters(model, 0.1)
    assert [len(group["params"]) for group in groups] == [1] and groups[0]["weight_decay"] == 0.1


def test_scoring_runs_the_experts_of_training():
    model = torch.nn.Sequential(torch.nn.Dropout(), GptOssExperts(), torch.nn.Sequential(GptOssExperts()))
    model.train()
    model[0].eval()
    before = [module.training for module in model.modules()]
    with logprob_mode.logprob_mode(model):
        assert not model.training and not model[0].training and model[1].training and model[2][0].training
    assert [module.training for module in model.modules()] == before


def test_the_patched_passes_use_the_scoring_mode():
    import inspect

    from openrlhf.trainer.ray import launcher, ppo_actor

    assert launcher.logprob_mode is ppo_actor.logprob_mode is logprob_mode.logprob_mode
    for actor in (launcher.ReferenceModelActor, ppo_actor.PolicyModelActor):
        source = inspect.getsource(actor.__ray_metadata__.modified_class.forward)
        assert "logprob_mode(" in source and ".eval()" not in source


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup", "cosine_with_min_lr"])
def test_every_schedule_can_be_built(name):
    from transformers.trainer import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    options = schedule.schedule_options(name, 2.0)
    built = get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=10, scheduler_specific_kwargs=options)
    for _ in range(10):
        optimizer.step()
        built.step()
    if name == "cosine_with_min_lr":
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


def test_deepspeed_checkpoint_leaves_out_the_base(tmp_path, monkeypatch):
    import deepspeed
    from openrlhf.utils.deepspeed import deepspeed as strategy_module
    from peft import LoraConfig, get_peft_model

    saved = {}

    class Engine(deepspeed.DeepSpeedEngine):
        def __init__(self, module):
            object.__setattr__(self, "module", module)  # nothing of DeepSpeed is needed but what is called below

        def __getattr__(self, name):
            raise AttributeError(name)

        def save_checkpoint(self, folder, **options):
            saved.update(options)

    monkeypatch.setattr(strategy_module, "torch_dist_barrier_and_cuda_sync", lambda: None)
    base = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2)})
    strategy = SimpleNamespace(is_rank_0=lambda: False, _unwrap_model=lambda engine: engine.module)
    save = strategy_module.DeepspeedStrategy.save_ckpt
    save(strategy, Engine(copy.deepcopy(base)), str(tmp_path), tag="t")
    assert saved["exclude_frozen_parameters"] is False
    save(strategy, Engine(get_peft_model(base, LoraConfig(target_modules=["q_proj"]))), str(tmp_path), tag="t")
    assert saved["exclude_frozen_parameters"] is True


class Rotary(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("inv_freq", torch.rand(4) + 0.1, persistent=False)


def test_rope_survives_a_cast():
    model = torch.nn.ModuleDict({"rotary_emb": Rotary(), "proj": torch.nn.Linear(2, 2)})
    exact = model["rotary_emb"].inv_freq.clone()
    saved = rope.snapshot(model)
    model.bfloat16()
    assert not torch.equal(model["rotary_emb"].inv_freq.float(), exact)
    rope.restore(model, saved)
    assert torch.equal(model["rotary_emb"].inv_freq, exact) and model["proj"].weight.dtype == torch.bfloat16


def test_a_lost_rotary_buffer_is_an_error():
    saved = rope.snapshot(torch.nn.ModuleDict({"rotary_emb": Rotary()}))
    with pytest.raises(RuntimeError, match=r"rotary_emb\.inv_freq not found"):
        rope.restore(torch.nn.Linear(2, 2), saved)

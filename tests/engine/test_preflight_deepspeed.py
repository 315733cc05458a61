"""The accumulation that preflight names is the one that DeepSpeed works out of the same configuration."""

import pytest

from rft import inputs, upstream_cli
from rft.errors import RftError

pytestmark = pytest.mark.engine
FLAGS = "--advantage_estimator dr_grpo --remote_rm_url r.py --vllm_num_engines 1 --rollout_batch_size 16 "
FLAGS += "--n_samples_per_prompt 8 --actor_num_gpus_per_node 1"


@pytest.mark.parametrize(("train", "micro"), [(16, 1), (128, 8), (32, 32), (24, 5), (4, 8), (7, 2)])
def test_it_is_deepspeeds(train, micro):
    from deepspeed.runtime.config import DeepSpeedConfig

    args = upstream_cli.parse(
        [*FLAGS.split(), "--train_batch_size", str(train), "--micro_train_batch_size", str(micro)]
    )
    config = {"train_batch_size": train, "train_micro_batch_size_per_gpu": micro}  # as the actor's strategy makes it
    try:
        inputs.check_accumulation(args)
    except RftError:
        with pytest.raises(AssertionError):
            DeepSpeedConfig(config)
    else:
        assert DeepSpeedConfig(config).gradient_accumulation_steps == inputs.accumulation_steps(args)

"""The patched sample generator and reward call, with real Ray and scripted engines in the place of vLLM."""

import asyncio
import random
from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def ray_local(tmp_path_factory):
    import tempfile

    import ray

    folder = tempfile.mkdtemp(prefix="rft-t-")  # short: unix sockets
    ray.init(address="local", num_cpus=4, include_dashboard=False, _temp_dir=folder, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def engine_process(ray_local):
    @ray_local.remote
    class Engine:
        """Answers each prompt after a random while: rewards 1 for even labels; echoes what it was asked."""

        def __init__(self):
            self.asked = []

        def get_num_unfinished_requests(self):
            return 0

        async def generate_responses(self, prompt, label, sampling_params, max_length, hf_tokenizer, num_samples):
            self.asked.append((prompt, num_samples, sampling_params))
            await asyncio.sleep(random.random() * 0.3)
            return [
                {
                    "prompt": prompt,
                    "label": label,
                    "observation_tokens": [1, 2, 3, 10 + i],
                    "action_ranges": [(3, 4)],
                    "rollout_log_probs": [0.0, 0.0, 0.0, -0.5],
                    "reward": float(int(label) % 2 == 0),
                    "scores": 0.5 if int(label) % 2 == 0 else 0.0,
                    "extra_logs": {"correctness": 1, "note": "no number"} if i else {"other": torch.tensor([0.5])},
                }
                for i in range(num_samples)
            ]

        def log(self):
            return self.asked

        def forget(self):
            self.asked = []

    return Engine.remote()


@pytest.fixture
def engine(ray_local, engine_process):
    """One process for all tests: a worker takes its time to import torch."""
    ray_local.get(engine_process.forget.remote())
    return engine_process


def make_generator(engine, prompts=20, **changes):
    from openrlhf.trainer.ppo_utils.experience_maker import SamplesGenerator

    from rft.prompts import PromptLoader

    class Data:
        def __len__(self):
            return prompts

        def __getitem__(self, i):
            return ("default", f"p{i}", str(i))

        def collate_fn(self, items):
            return [list(column) for column in zip(*items, strict=True)]

    args = {
        "rollout_batch_size": 8,
        "n_samples_per_prompt": 3,
        "vllm_enable_sleep": False,
        "dynamic_filtering": False,
        "dynamic_filtering_reward_range": (0.0, 1.0),
        "enable_vllm_is_correction": False,
        "rollout_seed": "request",
        "seed": 5,
        **changes,
    }
    strategy = SimpleNamespace(args=SimpleNamespace(**args))
    loader = PromptLoader(Data(), seed=1)
    return SamplesGenerator(strategy, loader, PromptLoader(Data(), 1, shuffle=False), None, [engine]), loader


def labels(samples):
    return [sample.labels[0] for sample in samples]


def test_samples_come_back_in_dispatch_order(engine):
    generator, loader = make_generator(engine)
    wanted = [f"{i}" for i in loader.order()[:8] for _ in range(3)]
    samples, _, _, exhausted = generator.generate_samples()
    assert labels(samples) == wanted and not exhausted


def test_partial_batch_is_generated_and_counted(engine):
    generator, _ = make_generator(engine, prompts=20)
    drawn = [generator.generate_samples() for _ in range(3)]
    assert [len(samples) for samples, *_ in drawn] == [24, 24, 12]
    assert [exhausted for *_, exhausted in drawn] == [False, False, True]
    assert sorted({label for samples, *_ in drawn for label in labels(samples)}, key=int) == [str(i) for i in range(20)]


def test_an_exact_pool_ends_with_an_empty_batch(engine):
    generator, _ = make_generator(engine, prompts=8)
    assert len(generator.generate_samples()[0]) == 24
    samples, _, consumed, exhausted = generator.generate_samples()
    assert (samples, consumed, exhausted) == ([], 0, True)
    assert len(generator.generate_samples()[0]) == 24  # the next episode


def test_accepted_samples_survive_exhaustion(engine):
    generator, _ = make_generator(engine, prompts=10, dynamic_filtering=True)
    samples, _, consumed, exhausted = generator.generate_samples()
    accepted = set(labels(samples))
    assert exhausted and consumed == 10 and accepted == {"0", "2", "4", "6", "8"} and len(samples) == 15


def test_evaluation_uses_its_own_n(engine, ray_local):
    generator, _ = make_generator(engine, prompts=5)
    samples = generator.generate_eval_samples(n_samples_per_prompt=1, temperature=0.0)
    assert labels(samples) == ["0", "1", "2", "3", "4"]
    asked = ray_local.get(engine.log.remote())
    assert {n for _, n, _ in asked} == {1} and len(asked) == 5


def test_rollouts_always_carry_log_probs(engine, ray_local):
    generator, _ = make_generator(engine)
    samples = generator.generate_samples()[0]
    assert all(torch.equal(s.rollout_log_probs, torch.tensor([[0.0, 0.0, -0.5]])) for s in samples)
    assert {params.logprobs for *_, params in ray_local.get(engine.log.remote())} == {0}


def test_seed_of_a_response_depends_on_its_number_alone(engine, ray_local):
    from rft.rollout_seed import for_sample

    generator, _ = make_generator(engine)
    generator.generate_samples()
    generator.generate_eval_samples(seed_stream="eval-x")
    generator.generate_samples()
    asked = ray_local.get(engine.log.remote())
    by_prompt = [(prompt, params.seed) for prompt, _, params in asked]
    train = by_prompt[:8] + by_prompt[28:]
    resumed, loader = make_generator(engine)
    loader.load_state_dict({"epoch": 0, "position": 8, "prompts": 20})
    resumed.ordinal = 8
    resumed.generate_samples()
    again = [(prompt, params.seed) for prompt, _, params in ray_local.get(engine.log.remote())[len(asked) :]]
    assert sorted(again) == sorted(train[8:])  # an actor may start concurrent calls in any order
    assert len({seed for _, seed in by_prompt}) == len(by_prompt)
    params = asked[0][2]
    assert for_sample(params, 0).seed != for_sample(params, 1).seed and params.seed == asked[0][2].seed


def test_only_numbers_of_the_extra_logs_are_carried(engine):
    generator, _ = make_generator(engine)
    first, second, *_ = generator.generate_samples()[0]
    assert first.info["other"] == 0.5 and second.info["correctness"] == 1.0 and "note" not in second.info


def test_samples_with_other_keys_make_one_batch(engine):
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
    from openrlhf.trainer.ppo_utils.replay_buffer import split_experience_batch

    class Maker(RemoteExperienceMaker):
        def __init__(self):
            shape = {"actor_num_nodes": 1, "actor_num_gpus_per_node": 2, "micro_rollout_batch_size": 6}
            shape |= {"use_dynamic_batch": False, "n_samples_per_prompt": 3}
            self.args = SimpleNamespace(vllm_is_truncated_threshold=[0.5, 5.0], **shape)
            self.tokenizer = SimpleNamespace(pad_token_id=0)

        def make_experience(self, samples):
            for sample in samples:
                sample.action_log_probs = sample.action_mask * -1.0
            return samples

        def compute_advantages_and_returns(self, samples):
            for sample in samples:
                sample.advantages = sample.action_mask * 1.0
            return samples

    generator, _ = make_generator(engine)
    batches = Maker().make_experience_batch(generator.generate_samples()[0])
    items = [item for batch in batches for item in split_experience_batch(batch)]
    assert len(items) == 24
    found = [(float(item.info["correctness"]), float(item.info["other"])) for item in items]
    assert [str(pair) for pair in found] == ["(nan, 0.5)", "(1.0, nan)", "(1.0, nan)"] * 8


def test_every_rank_runs_as_many_passes_and_no_result_is_doubled(ray_local):
    from openrlhf.trainer.ray.launcher import BaseModelActor, RayActorGroup

    @ray_local.remote
    class Rank(BaseModelActor):
        def __init__(self):
            self.strategy = SimpleNamespace(is_rank_0=lambda: False)
            self.seen = []

        def forward(self, item):
            self.seen.append(item)
            return 10 * item

        def append(self, item):
            self.seen.append(item)

        def passes(self):
            seen, self.seen = self.seen, []
            return seen

    group = RayActorGroup.__new__(RayActorGroup)
    group._actor_handlers, group.duplicate_actors = [Rank.remote() for _ in range(2)], 1
    results = ray_local.get(group.async_run_method_batch("forward", item=list(range(5))))
    assert results == [[0, 10, 20], [30, 40]]
    assert ray_local.get(group.async_run_method("passes")) == [[0, 1, 2], [3, 4, 4]]
    ray_local.get(group.async_run_method_batch("append", item=list(range(5))))
    assert ray_local.get(group.async_run_method("passes")) == [[0, 1, 2], [3, 4]]


def test_engine_seeds_leave_requests_alone(engine, ray_local):
    generator, _ = make_generator(engine, rollout_seed="engine")
    generator.generate_samples()
    assert {params.seed for *_, params in ray_local.get(engine.log.remote())} == {None}


def execute(reward_file, label="7"):
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    class Engine:
        async def generate(self, ids, params):
            output = SimpleNamespace(token_ids=[5], finish_reason="stop", logprobs=None, text="")
            return SimpleNamespace(outputs=[output], adapter_version=3)

    class Tokenizer:
        def __call__(self, text, **_):
            return {"input_ids": torch.tensor([[1, 2]])}

        def decode(self, ids, **_):
            return "text"

    params = SimpleNamespace(max_tokens=4, logprobs=None)
    return asyncio.run(SingleTurnAgentExecutor(str(reward_file)).execute("p", label, params, 64, Tokenizer(), Engine()))


def test_failed_reward_stops_the_run(tmp_path):
    from rft.errors import RftError

    bad = tmp_path / "bad_reward.py"
    bad.write_text("def reward_func(queries, prompts, labels):\n    raise KeyError('nothing here')\n")
    with pytest.raises(RftError, match=r"bad_reward.py failed for label '7': KeyError\('nothing here'\)"):
        execute(bad)
    bad.write_text("def reward_func(queries, prompts, labels):\n    return {'scores': 1.0}\n")
    with pytest.raises(RftError, match="returned no `rewards`"):
        execute(bad)


def test_a_score_of_zero_is_kept(tmp_path):
    reward = tmp_path / "reward.py"
    reward.write_text("def reward_func(queries, prompts, labels):\n    return {'rewards': 1.0, 'scores': 0.0}\n")
    output = execute(reward)
    assert output["reward"] == 1.0 and output["scores"] == 0.0 and output["adapter_version"] == 3


GROUP_REWARD = """
import threading

def reward_func(queries, prompts, labels):
    right, failed = float("|5" in queries[0]), float("|6" in queries[0])
    return {"rewards": right, "scores": 0.0, "extra_logs": {"failed": failed}}

def finish_group(results):
    assert len({(r["prompt"], r["label"]) for r in results}) == 1
    assert threading.current_thread() is not threading.main_thread()
    failed = any(r["extra_logs"]["failed"] for r in results)
    logs = {"fallback": float(failed)}
    return [r | {"rewards": -1.0 if failed else r["rewards"], "extra_logs": logs} for r in results]
"""


def group_of(reward_file, tokens):
    """All answers of one prompt through the patched engine's own method, with a scripted model."""
    from openrlhf.trainer.ray.vllm_engine import LLMRayActor
    from openrlhf.utils.agent import SingleTurnAgentExecutor
    from vllm import SamplingParams

    class Tokenizer:
        def __call__(self, text, **_):
            return {"input_ids": torch.tensor([[1, 2]])}

        def decode(self, ids, **_):
            return "|".join(map(str, ids))

    engine = LLMRayActor.__ray_metadata__.modified_class.__new__(LLMRayActor.__ray_metadata__.modified_class)
    engine.executor = SingleTurnAgentExecutor(str(reward_file))
    answers = iter(tokens)

    async def generate(ids, params):
        output = SimpleNamespace(token_ids=[next(answers)], finish_reason="stop", logprobs=None, text="")
        return SimpleNamespace(outputs=[output], adapter_version=3)

    engine.generate = generate
    call = engine.generate_responses("p", "7", SamplingParams(max_tokens=4), 64, Tokenizer(), len(tokens))
    return asyncio.run(call)


def test_a_group_hook_settles_all_answers_to_a_prompt(tmp_path):
    reward = tmp_path / "reward.py"
    reward.write_text(GROUP_REWARD)
    good = group_of(reward, [5, 4, 5])
    assert [o["reward"] for o in good] == [1.0, 0.0, 1.0] and {o["extra_logs"]["fallback"] for o in good} == {0.0}
    assert not any("query" in output for output in good)  # the text travels no further
    bad = group_of(reward, [5, 6, 5])
    assert [o["reward"] for o in bad] == [-1.0] * 3 and {o["extra_logs"]["fallback"] for o in bad} == {1.0}


def test_a_failed_group_hook_stops_the_run(tmp_path):
    from rft.errors import RftError

    reward = tmp_path / "reward.py"
    reward.write_text(GROUP_REWARD + "\n\ndef finish_group(results):\n    return results[1:]\n")
    with pytest.raises(RftError, match=r"reward.py failed on the group of label '7': .*2 results for 3 answers"):
        group_of(reward, [5, 4, 5])


def test_rewards_wait_in_threads_of_their_own(tmp_path):
    """Forty rewards that wait for each other: asyncio's own pool has six threads on two cores."""
    reward = tmp_path / "reward.py"
    reward.write_text(
        "import threading\nbarrier = threading.Barrier(40, timeout=30)\n\n\n"
        "def reward_func(queries, prompts, labels):\n    barrier.wait()\n    return {'rewards': 1.0}\n"
    )
    assert [o["reward"] for o in group_of(reward, [5] * 40)] == [1.0] * 40

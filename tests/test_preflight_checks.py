"""Every check of the table, by one fault each: exactly that check fails, and says what to do."""

import json
import os
import resource
import shutil
import socket
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import preflight_kit as kit
import pytest

from rft.errors import RftError
from rft.preflight import machine, recipe, table, tokens
from rft.preflight.result import FAIL, OK, SKIPPED, WARN, Result, Subject

GPU = {"DS_ACCELERATOR": "cuda", "RFT_MIN_SHM_GB": "0.01"}


def run(subject: Subject) -> dict[str, Result]:
    """All groups in this process, as report.check has them in several."""
    found: dict[str, Result] = {}
    for group in (table.QUICK, *table.SLOW_GROUPS):
        found |= dict(table.run_group(group, subject, (), [n for n, one in found.items() if one.verdict == FAIL]))
    return found


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.make_repo(tmp_path_factory.mktemp("preflight"))


@pytest.fixture
def repo(master: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(master, tmp_path / "repo"))


def flags(*changed: str, without: str | None = None):
    return lambda repo, patch: kit.subject(repo, kit.arguments(*changed, without=without))


def env(**changed: str):
    return lambda repo, patch: kit.subject(repo, env=changed)


def pristine(repo, patch):
    subject = kit.subject(repo)
    patch.syspath_prepend(str(patch.site))
    for name in [name for name in sys.modules if name.partition(".")[0] == "openrlhf"]:
        patch.delitem(sys.modules, name)  # imported by another test: it would be found there
    return subject


def old_torch(repo, patch):
    (repo / "requirements").mkdir()
    (repo / "requirements" / "cpu.lock").write_text("torch==1.0.0\npeft==0.21.2\n")
    return kit.subject(repo)


def no_key(repo, patch):
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        patch.delenv(name, raising=False)
    return kit.subject(repo, kit.arguments("--remote_rm_url", "reward_func.py"), {"RFT_JUDGE_BACKEND": "api"})


def judge_in_a_composition(repo, patch):
    parts = "".join(f'[[part]]\nname = "{name}"\nbuiltin = "{name}"\n' for name in ("exact_match", "judge"))
    (repo / "mix.toml").write_text(parts)
    return replace(no_key(repo, patch), args=kit.arguments("--remote_rm_url", "mix.toml"))


def hub_away(repo, patch):
    return kit.subject(repo, kit.arguments("--engine_pretrain", "nobody/x"), {"HF_ENDPOINT": "http://127.0.0.1:1"})


def bad_label(repo, patch):
    with open(repo / "train.jsonl", "a") as file:
        file.write('{"input": "What is it?", "label": "?"}\n')
    return kit.subject(repo)


def taken_port(repo, patch):
    taken = socket.socket()
    patch.closing.append(taken)
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return kit.subject(repo, env={"RFT_RAY_PORT": str(taken.getsockname()[1])})


def smi(repo: Path, patch, *used_mib: int) -> Subject:
    """A machine with a driver that lists these GPUs."""
    script = repo / "bin" / "nvidia-smi"
    script.parent.mkdir()
    rows = "".join(f'echo "{index}, {used}"; ' for index, used in enumerate(used_mib))
    names = "echo H100; " * len(used_mib)
    script.write_text(f'#!/bin/sh\ncase "$*" in *memory.used*) {rows};; *) {names};; esac\n'.replace("; ;;", ";;"))
    script.chmod(0o755)
    path = f"{script.parent}:/usr/bin:/bin"
    patch.setenv("PATH", path)
    return kit.subject(repo, env={**GPU, "PATH": path})


def few_files(repo, patch):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    patch.restored.append((resource.RLIMIT_NOFILE, (soft, hard)))
    open_now = max(map(int, os.listdir("/proc/self/fd")))  # a long test session holds hundreds
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 64, hard))
    subject = kit.subject(repo)
    subject.env["RFT_MIN_NOFILE"] = str(open_now + 65)
    return subject


def no_temp(repo, patch):
    patch.setattr(machine, "RAY_TEMP", Path("/proc"))
    return kit.subject(repo)


def plain_template(repo, patch):
    (repo / "model" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return kit.subject(repo)


def never_stops(repo, patch):
    """An engine's folder whose tokenizer and generation_config end at <|endoftext|> alone."""
    engine = Path(shutil.copytree(repo / "model", repo / "engine"))
    (engine / "generation_config.json").write_text('{"eos_token_id": 281}')
    config = json.loads((engine / "tokenizer_config.json").read_text())
    (engine / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|startoftext|>"}))
    (engine / "special_tokens_map.json").unlink()
    return kit.subject(repo, kit.arguments("--engine_pretrain", "engine"))


def evaluates_training_problem(repo, patch):
    with open(repo / "eval.jsonl", "a") as file:
        file.write('{"input": "what is  3 + 10?", "label": "3"}\n')
    return kit.subject(repo)


def manifest_problem(repo, patch):
    """A set that prepare_data.py made beside the prompts, which the launch does not name."""
    from rft.provenance import sha256

    (repo / "aime.jsonl").write_text('{"input": "What is 4 + 17?", "label": "4"}\n')
    entry = {"role": "evaluation", "rows": 1, "sha256": sha256(repo / "aime.jsonl")}
    (repo / "prepare_data.json").write_text(json.dumps({"files": {"aime.jsonl": entry}}))
    return kit.subject(repo)


def reward_of(body: str):
    def fault(repo, patch):
        (repo / "mine.py").write_text(f"def reward_func(queries, prompts, labels):\n    {body}\n")
        return kit.subject(repo, kit.arguments("--remote_rm_url", "mine.py"))

    return fault


MAIN_THREAD = "import signal; signal.signal(signal.SIGALRM, lambda *a: None); return {'rewards': 1.0}"
FAULTS = [
    ("patches", pristine, "apply_patches.sh"),
    ("packages", old_torch, "torch 2.10.0, locked 1.0.0; run bash setup.sh"),
    ("schedule", flags("--lr_scheduler", "cosin"), "not a known schedule"),
    ("attention", flags("--attn_implementation", "sdpa"), "drops gpt-oss's attention sinks"),
    ("attention", flags("--attn_implementation", "flash_attention_3"), "use one of: eager"),
    ("checkpointing", flags(without="--gradient_checkpointing_use_reentrant"), "add --gradient_checkpointing_use_re"),
    ("batches", flags("--train_batch_size", "24"), "does not divide a rollout"),
    ("accumulation", flags("--micro_train_batch_size", "5"), "5 x 2 ranks = 10; choose one, such as 30"),
    ("model", flags("--engine_pretrain", "./nowhere"), "no such folder"),
    ("model", hub_away, "--engine_pretrain nobody/x: not in the hub cache, and http://127.0.0.1:1 does not answer (["),
    ("reward-file", flags("--remote_rm_url", "none.py"), "no such file"),
    ("reward-file", flags("--remote_rm_url", "none.toml"), "no such file"),
    ("judge", no_key, "set GEMINI_API_KEY"),
    ("judge", judge_in_a_composition, "set GEMINI_API_KEY"),
    ("prompts", bad_label, "line 9: label '?' holds nothing to compare"),
    ("outputs", lambda repo, patch: kit.subject(repo, save="/proc/x"), "--save_path /proc/x: /proc is not writable"),
    ("disk", env(RFT_MIN_FREE_GB="1e9"), "free space or name another disk"),
    ("ports", taken_port, "occupied"),
    ("gpus", lambda repo, patch: smi(repo, patch, 0, 0), "4 GPUs needed (2 actor ranks, 1 engines x 2), 2 found"),
    ("gpus", lambda repo, patch: smi(repo, patch, 0, 7, 40000, 0), "3 of 4 GPUs are free, 4 needed"),
    ("shared-memory", env(RFT_MIN_SHM_GB="1e9"), "--shm-size"),
    ("limits", few_files, "ulimit -n is "),
    ("ray-temp", no_temp, "make it writable"),
    ("tokenizer", plain_template, "train.jsonl line 1: no Harmony prompt ('What is 0 + 1?')"),
    ("tokenizer", flags(without="--apply_chat_template"), "add --apply_chat_template"),
    ("stop-tokens", never_stops, "is no stop token of engine"),
    ("prompt-lengths", flags("--prompt_max_len", "8"), "12 of 12 prompts are longer than --prompt_max_len 8"),
    ("prompt-lengths", flags("--generate_max_len", "5000"), "= 5064, but model takes 4096 tokens"),
    ("lora-targets", flags("--target_modules", "q_proj", "qkv_proj"), "qkv_proj: no such module in model; it has"),
    ("lora-targets", flags("--target_modules", "q_proj", "router"), "reaches router beyond the attention"),
    ("learning-rate", flags("--num_episodes", "200", "--lr_warmup_ratio", "0.5"), "a warm-up of 0.15 (--lr_w"),
    (
        "overlap",
        evaluates_training_problem,
        "train.jsonl line 4 is nearly the problem (similarity 1.00) of eval.jsonl line 5",
    ),
    ("overlap", manifest_problem, "train.jsonl line 5 is the problem of aime.jsonl line 1"),
    ("reward", reward_of("raise KeyError('x')"), "fails in a worker thread for train.jsonl line 1 (KeyError: 'x')"),
    ("reward", reward_of("return 1.0"), "it must return"),
    ("reward", reward_of(MAIN_THREAD), "signal only works in main thread"),
]


@pytest.mark.parametrize(("name", "fault", "words"), FAULTS, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(FAULTS)])
def test_exactly_one_check_fails(name, fault, words, repo, monkeypatch, pristine_master):
    monkeypatch.site, monkeypatch.closing, monkeypatch.restored = pristine_master, [], []
    try:
        results = run(fault(repo, monkeypatch))
    finally:
        for one in monkeypatch.closing:
            one.close()
        for kind, limit in monkeypatch.restored:
            resource.setrlimit(kind, limit)
    assert [found for found, one in results.items() if one.verdict == FAIL] == [name]
    assert words in results[name].error and "\n" not in results[name].error
    assert results[name].value and results[name].remedy
    assert {one.verdict for one in results.values()} <= {OK, SKIPPED, WARN, FAIL}


def test_every_check_has_a_fault():
    assert {name for name, *_ in FAULTS} == {check.name for check in table.CHECKS}


def test_nothing_fails_in_a_good_launch_and_nothing_is_written(repo):
    before = sorted(repo.rglob("*"))
    results = run(kit.subject(repo))
    shown = {name: one.verdict for name, one in results.items()}
    assert {name for name, verdict in shown.items() if verdict not in (OK, SKIPPED)} <= {"limits"}
    assert [name for name, verdict in shown.items() if verdict == SKIPPED] == ["packages", "judge", "gpus"]
    assert sorted(repo.rglob("*")) == before
    assert results["prompt-lengths"].value == "12 prompts within 64 tokens, the longest of 12 tokenised has 21"
    assert results["overlap"].value == "8 prompts against 4 problems of eval.jsonl"
    assert results["lora-targets"].value == "16 modules: q_proj, k_proj, v_proj, o_proj, r 16, alpha 32"
    assert results["accumulation"].value == "4 a rank x 4 accumulated x 2 ranks = 32 answers a step"


@pytest.mark.parametrize(
    ("name", "fault", "words"),
    [
        ("accumulation", flags("--micro_rollout_batch_size", "2"), "so the first ratio is not 1"),
        ("learning-rate", flags("--num_episodes", "10"), "0.000106 at step 20 of 20, 11% of 0.001"),
        ("learning-rate", flags("--num_episodes", "3"), "the run ends after 6 optimizer steps, before step 20"),
        ("learning-rate", flags("--num_episodes", "1", "--lr_warmup_ratio", "0.03"), "the run ends after 2 optimizer"),
        ("reward", reward_of("return {'rewards': 0.5}"), "gold 0.5, wrong 0.5"),
        ("gpus", lambda repo, patch: smi(repo, patch, 0, 9000, 0, 0, 0), "in use: GPU 1"),
    ],
)
def test_what_may_be_meant_is_a_warning(name, fault, words, repo, monkeypatch):
    results = run(fault(repo, monkeypatch))
    assert [found for found, one in results.items() if one.verdict == FAIL] == []
    assert results[name].verdict == WARN and words in results[name].value and results[name].remedy


def test_experts_may_be_meant(repo):
    args = kit.arguments("--target_modules", "q_proj", "router")
    args.allow_expert_lora, args.vllm_num_engines = True, 0
    assert dict(table.run_group(table.MODEL, kit.subject(repo, args), (), ()))["lora-targets"].verdict == OK


def test_experts_that_no_engine_would_serve(repo):
    args = kit.arguments("--target_modules", "q_proj", "--allow_expert_lora")
    found = dict(table.run_group(table.MODEL, kit.subject(repo, args), (), ()))["lora-targets"]
    assert found.verdict == FAIL and "engines take adapters of attention projections only" in found.error


def test_a_check_that_crashes_has_not_passed(repo):
    broken = replace(table.CHECKS[0], function="install.nothing")
    result = broken(kit.subject(repo))
    assert result.verdict == FAIL and "the check patches crashed: AttributeError" in result.error


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("reward_func_em.py", "\\frac{3}{4}"),
        ("reward_func_action.py", json.dumps({f"reward_action_{n}": n / 4 for n in range(4)})),
    ],
)
def test_own_rewards_tell_right_from_wrong(spec, label, repo):
    (repo / "train.jsonl").write_text("".join(json.dumps({"input": f"x {n}", "label": label}) + "\n" for n in range(4)))
    args = kit.arguments("--remote_rm_url", spec)
    result = dict(table.run_group(table.REWARD, kit.subject(repo, args), (), ()))["reward"]
    assert result.verdict == OK and "gold" in result.value


def test_a_long_prompt_is_found_among_rows_that_are_not_tokenised(repo, monkeypatch):
    monkeypatch.setattr(tokens, "SEEN_EXACTLY", 1)
    args = kit.arguments("--prompt_max_len", "300")
    counted = tokens.prompt_lengths(kit.subject(repo, args))
    assert counted.value == "12 prompts within 300 tokens, the longest of 2 tokenised has 21"
    with open(repo / "train.jsonl", "a") as file:
        file.write(json.dumps({"input": "?" * 290, "label": "1"}) + "\n")
    with pytest.raises(RftError, match=r"1 of 13 prompts are longer .* train.jsonl line 9; set --prompt_max_len 3"):
        tokens.prompt_lengths(kit.subject(repo, args))


def test_a_hub_that_refuses_has_answered_and_a_cached_model_asks_nobody(repo, tmp_path):
    asked = []

    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_error(401)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        there = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path)}
        subject = kit.subject(repo, kit.arguments("--engine_pretrain", "me/x"), there)
        assert recipe.model(subject).verdict == OK and asked == ["/me/x/resolve/main/config.json"]
        snapshot = tmp_path / "hub" / "models--me--x" / "snapshots" / "1"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        assert recipe.model(subject).verdict == OK and len(asked) == 1
        hub.shutdown()

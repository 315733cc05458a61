"""docker/: the Dockerfile parsed and its steps run in a clean folder, the scripts by what they would run.

There is no docker daemon here, so no image is built: FROM and apt-get are checked by what they name, COPY is done with
the ignore file's rules, every other RUN is executed as it stands. The lock is one of a few small packages.
"""

import fnmatch
import itertools
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from patch_kit import ROOT, Series
from test_setup import SMALL, environment, version

DOCKER = ROOT / "docker"
COMMANDS = {"git": "git", "bwrap": "bubblewrap", "g++": "build-essential", "python3": "python3", "ninja": "ninja-build"}
SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|hf_[A-Za-z0-9]{8}", re.IGNORECASE)


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments), comments dropped and continued lines joined."""
    text = "\n".join(line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def ignored(path: str) -> bool:
    """As docker reads the ignore file: the last rule that matches a path or a folder above it decides."""
    found = False
    for rule in (DOCKER / "Dockerfile.dockerignore").read_text().split():
        keep, pattern = rule.startswith("!"), rule.removeprefix("!")
        parts = Path(path).parts
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        if pattern.startswith("**/"):
            hit = any(fnmatch.fnmatch(part, pattern[3:]) for part in parts)
        else:
            hit = any(fnmatch.fnmatch(one, pattern) and one.count("/") == pattern.count("/") for one in above)
        found = not keep if hit else found
    return found


def context(target: Path) -> None:
    """What `COPY . .` puts into the image; .git is left out, since nothing here reads it."""
    for folder, below, files in os.walk(ROOT):
        here = Path(folder).relative_to(ROOT)
        below[:] = [name for name in below if name != ".git" and not (ignored(str(here / name)) and name != "data")]
        for name in files:
            if name != ".git" and not ignored(str(here / name)):
                (target / here).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / here / name, target / here)


def test_the_ignore_rules():
    for name in (".venv/bin/python", "runs/a/log.txt", "data/tiny/seed0/model/x", "rft/__pycache__/a.pyc", "a/.env"):
        assert ignored(name), name
    for name in ("rft/launch.py", "data/.gitignore", "setup.sh", "docker/train.sh", "rft/data/job.py"):
        assert not ignored(name), name


def test_the_steps_make_a_ready_environment_in_a_clean_folder(tmp_path, pristine_master):
    """In the Dockerfile's order: a step that needs an earlier one fails here as it would there."""
    work = tmp_path / "opt"
    variables, arguments, ran = {}, {"KIND": "cpu"}, []
    for name, rest in instructions():
        if name == "WORKDIR":
            work.mkdir()
        elif name == "COPY":
            assert rest.split() == [".", "."]
            context(work)
            assert (work / "data" / ".gitignore").is_file() and not (work / ".venv").exists()
            lock = work / "requirements" / "cpu.lock"
            pins = re.findall(rf"^(?:{'|'.join(SMALL)})==\S+", lock.read_text(), re.M)
            lock.write_text("".join(f"{pin}\n" for pin in pins))
            shutil.rmtree(work / "patches")
            shutil.copytree(Series(tmp_path / "empty", pristine_master).dir, work / "patches")
        elif name == "ENV":
            variables |= dict(item.split("=", 1) for item in shlex.split(rest))
        elif name == "ARG" and work.exists():
            key, _, value = rest.partition("=")
            variables[key] = arguments.get(key, value)
        elif name == "RUN" and "apt-get" not in rest:
            command = re.sub(r"^(--\w+=\S+\s+)+", "", rest)
            ran.append(command)
            env = environment(**variables)
            done = subprocess.run(["bash", "-c", command], cwd=work, env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr + done.stdout
    assert ran == ['bash setup.sh "$KIND"'], "what is installed is what setup.sh installs, and nothing else"
    assert version(work, "openrlhf") == "0.9.3" and (work / ".venv" / ".rft-setup").read_text().startswith("cpu ")
    again = subprocess.run(["bash", "setup.sh"], cwd=work, env=environment(), capture_output=True, text=True)
    assert again.stdout == "setup: nothing changed (cpu)\n", "a launcher in the container builds nothing"
    entry, default = dict(instructions())["ENTRYPOINT"], dict(instructions())["CMD"]
    assert entry == '["bash"]' and (work / default.strip('[]"')).is_file()


def test_the_image_is_for_a_gpu_unless_told_otherwise_and_has_what_the_steps_call():
    steps = instructions()
    assert ("ARG", "KIND=gpu") in steps and dict(steps)["FROM"].startswith("nvidia/cuda:")
    cuda = next(rest for name, rest in steps if name == "ARG" and rest.startswith("CUDA="))
    runtime = re.search(r"^nvidia-cuda-runtime-cu12==(\d+\.\d+)", (ROOT / "requirements/gpu.lock").read_text(), re.M)[1]
    assert cuda.removeprefix("CUDA=").startswith(runtime), "the compiler is of the CUDA that torch brings"
    (apt,) = [rest for name, rest in steps if name == "RUN" and "apt-get" in rest]
    packages = set(apt.split("install", 1)[1].split("&&")[0].split())
    assert set(COMMANDS.values()) <= packages, set(COMMANDS.values()) - packages


def test_nothing_secret_is_in_the_image():
    for name, rest in instructions():
        if name in ("ENV", "ARG", "RUN", "COPY", "ADD"):
            assert not SECRET.search(rest), f"{name} {rest}"
    assert not [rest for name, rest in instructions() if name == "ADD"]


def script(name: str, *words: str, **env: str) -> subprocess.CompletedProcess:
    bare = {"PATH": os.environ["PATH"], "HOME": "/home/me", **env}
    return subprocess.run(["bash", str(DOCKER / name), *words], capture_output=True, text=True, env=bare, cwd="/")


def test_build():
    tokens = script("build.sh", "--dry-run", "--no-cache").stdout.splitlines()
    assert tokens[:2] == ["docker", "build"] and tokens[-2:] == ["--no-cache", str(ROOT)]
    assert tokens[tokens.index("--file") + 1] == str(DOCKER / "Dockerfile") and "KIND=gpu" in tokens
    assert "KIND=cpu" in script("build.sh", "--dry-run", RFT_KIND="cpu").stdout.splitlines()
    refused = script("build.sh", "--dry-run", RFT_KIND="tpu")
    assert refused.returncode == 2 and refused.stderr == "error: RFT_KIND=tpu: give gpu or cpu\n"


def test_train_hands_tokens_on_by_name_alone():
    secret = {"HF_TOKEN": "hf_secretsecret", "GEMINI_API_KEY": "AIsecret", "RFT_MODEL": "mine", "OTHER": "x"}
    done = script("train.sh", "--dry-run", **secret)
    assert done.returncode == 0 and "secret" not in done.stdout + done.stderr
    tokens = done.stdout.splitlines()
    names = [value for flag, value in itertools.pairwise(tokens) if flag == "--env"]
    assert names == ["HF_TOKEN", "GEMINI_API_KEY", "RFT_MODEL"]
    assert "--env" not in script("train.sh", "--dry-run").stdout, "a token that is not set is not handed on"


def test_train_gives_gpus_shared_memory_and_the_caches():
    tokens = script("train.sh", "--dry-run", "train_grpo_20b.sh", "--seed", "1").stdout.splitlines()
    assert tokens[-4:] == ["rft", "train_grpo_20b.sh", "--seed", "1"]
    assert tokens[tokens.index("--gpus") + 1] == "all" and tokens[tokens.index("--shm-size") + 1] == "16g"
    mounts = [value for flag, value in itertools.pairwise(tokens) if flag == "--mount"]
    bound = dict(re.findall(r"src=(\S+),dst=(\S+)", "\n".join(mounts)))
    workdir = dict(instructions())["WORKDIR"]
    assert bound == {
        "rft-cache": "/root/.cache",
        "/home/me/.cache/huggingface": "/root/.cache/huggingface",
        f"{ROOT}/data": f"{workdir}/data",
        f"{ROOT}/runs": f"{workdir}/runs",
    }
    other = script("train.sh", "--dry-run", RFT_DOCKER_GPUS="none", RFT_RUNS_DIR="else", RFT_DOCKER_SANDBOX="0").stdout
    assert "--gpus" not in other and "src=/else,dst=" in other and "seccomp" not in other
    assert "train_grpo_1gpu.sh" in other.splitlines()


@pytest.mark.parametrize("launcher", ["nothing.sh", "docker/train.sh", "../train_grpo.sh"])
def test_train_refuses_what_is_no_launcher(launcher):
    done = script("train.sh", "--dry-run", launcher)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith(f"error: {launcher}: no launcher of")


def test_help_and_a_machine_without_docker(tmp_path):
    for name in ("bash", "sed", "dirname", "realpath"):
        (tmp_path / name).symlink_to(shutil.which(name))
    for name in ("build.sh", "train.sh"):
        assert script(name, "--help").stdout.startswith(f"Usage: bash docker/{name}")
        done = script(name, PATH=str(tmp_path))
        assert done.returncode == 2 and done.stderr.startswith("error: docker is not on PATH")

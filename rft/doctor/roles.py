"""Which process of a run is which: names that a reader of a log knows, and who keeps the others waiting.

A name comes from the process's own title (Ray and vLLM set theirs) or from its command line. Roles are in the order in
which one death pulls the others along: of several that went at once, the first in `ESSENTIAL` is the cause.
"""

import contextlib
import re
from dataclasses import dataclass

import psutil

from rft.attempts import secret

TRAINING = "training process"  # python -m openrlhf.cli.train_ppo_ray: the launcher's child
CONTROLLER = "trainer"  # Ray actor PPOTrainer
ACTOR = "policy actor"
ENGINE = "engine actor"  # Ray actor around vLLM; the rewards run in its threads
CORE = "engine core"
WORKER = "engine worker"
LAUNCHER = "launcher"
#: a run cannot go on without any of these
ESSENTIAL = ("raylet", "Ray's GCS", TRAINING, CONTROLLER, "critic", "reference actor", ACTOR, ENGINE, CORE, WORKER)

_RAY_ACTORS = {
    "PPOTrainer": CONTROLLER,
    "TrainingActor": CONTROLLER,
    "GenerateSamplesActor": CONTROLLER,
    "PolicyModelActor": ACTOR,
    "ReferenceModelActor": "reference actor",
    "RewardModelActor": "reward model",
    "CriticModelActor": "critic",
    "LLMRayActor": ENGINE,
    "RayWorkerWrapper": WORKER,
}
_RAY_TITLE = re.compile(r"^ray::(\w+)")


@dataclass(frozen=True)
class Member:
    """One process of a run; role "" for helpers."""

    pid: int
    role: str
    title: str

    @property
    def name(self) -> str:
        return f"{self.role or self.title[:60]} (pid {self.pid})"


def role_of(command: list[str]) -> str:
    """The role of a process by its command line or title; "" for one that is none of the above."""
    title = " ".join(command)
    ray = _RAY_TITLE.match(title)
    if ray:
        return _RAY_ACTORS.get(ray[1], "")
    if title.startswith("VLLM::EngineCore"):
        return CORE
    if title.startswith("VLLM::Worker"):
        return WORKER
    program = command[0].rsplit("/", 1)[-1] if command else ""
    if program in ("raylet", "gcs_server"):
        return "raylet" if program == "raylet" else "Ray's GCS"
    if "-m" in command:
        module = command[command.index("-m") + 1 : command.index("-m") + 2]
        if module == ["rft.launch"]:
            return LAUNCHER
        if module and module[0].endswith(("train_ppo_ray", "fake_training")):
            return TRAINING
    return ""


def member(process: psutil.Process) -> Member | None:
    """None for one that is gone."""
    with contextlib.suppress(psutil.Error):
        command = [word for word in process.cmdline() if word]
        title = " ".join(secret.hide(command)) or process.name()
        return Member(process.pid, role_of(command), title)
    return None

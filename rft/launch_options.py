"""The launcher's own options: what a user may write beside OpenRLHF's flags, on either side of ``--``."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from rft.errors import RftError

VALUED = ("--name", "--env", "--resume", "--tiny", "--after", "--reward_gate", "--skip", "--on_hang", "--hang_factor")
VALUED += ("--hang_floor", "--save_name", "--task", "--task_set", "--unset_env")
USAGE = """usage: python -m rft.launch [options] -- <flags of openrlhf.cli.train_ppo_ray> [options]

  --name NAME        begin of the run's id
  --env NAME=VALUE   set a variable for the run, unless the environment has it already; repeatable
  --dry-run          print the resolved command, one token a line, and touch nothing
  --verbose          the training process's output also on the terminal (or RFT_VERBOSE=1)
  --resume RUN       continue a run (id, `last`, `auto` or folder): its checkpoints, metrics and samples; auto: the
                     newest of this --name that left a whole checkpoint, else start anew
  --on_hang MODE     log, stop or off: what happens to a step that takes --hang_factor (5) times its median, and at
                     least --hang_floor (300) seconds; log and stop leave a bundle (docs/doctor.md), stop ends the run
  --preflight        the table of checks, and nothing else (docs/preflight.md); --json prints it as JSON
  --skip CHECK       start although this check fails; repeatable, kept in run.json
  --tiny DIR         make the tiny gpt-oss in DIR first, print its before-and-after table at the end
  --after MODULE     after a finished run call MODULE.main([run folder])
  --reward_gate G    correct: the judge's quality is paid to correct answers only; none: to all (RFT_JUDGE_GATE)
  --save_name NAME   the folder of the last adapter within the run's (final)
  --config FILE      settings in YAML over the recipe's; flags of the command line win (docs/config.md)
  --print-config     print the resolved whole as such a file, and touch nothing
  --task TYPE        math, code, action or custom: prompts, reward and template; --task_set KEY=VALUE: its settings
"""


@dataclass
class Options:
    """The launcher's own options; flags = what is OpenRLHF's."""

    name: str = "grpo"
    env: list[str] = field(default_factory=list)
    dry_run: bool = False
    verbose: bool = False
    resume: str | None = None
    on_hang: str | None = None
    hang_factor: str | None = None
    hang_floor: str | None = None
    tiny: str | None = None
    after: str | None = None
    reward_gate: str | None = None
    save_name: str | None = None
    task: str | None = None
    task_set: list[str] = field(default_factory=list)
    unset_env: list[str] = field(default_factory=list)  # variables of the recipe that a file took back: for config.yaml
    print_config: bool = False
    skip: list[str] = field(default_factory=list)
    preflight: bool = False
    json: bool = False
    flags: list[str] = field(default_factory=list)


def split_options(argv: Sequence[str]) -> Options:
    """Own options from anywhere in argv, the last one winning; the order of the other tokens is kept."""
    options = Options(verbose=os.environ.get("RFT_VERBOSE") == "1")
    tokens = iter(argv)
    for token in tokens:
        flag, equals, value = token.partition("=")
        if flag in ("--dry-run", "--verbose", "--print-config", "--preflight", "--json") and not equals:
            setattr(options, flag[2:].replace("-", "_"), True)
        elif flag in VALUED:
            value = value if equals else next(tokens, None)
            if not value:
                raise RftError(f"{flag} needs a value")
            if flag == "--env":
                if "=" not in value:
                    raise RftError(f"--env {value}: give NAME=VALUE")
                options.env.append(value)
            elif flag in ("--task_set", "--unset_env", "--skip"):
                getattr(options, flag[2:]).append(value)
            else:
                setattr(options, flag[2:].replace("-", "_"), value)
        elif token != "--":
            options.flags.append(token)
    return options

"""The reward of one run, as the launcher hands it to OpenRLHF: a python file, and variables for the engine processes.

Called by `rft.launch` on the main thread; nothing of the reward is run, and torch is not imported.
"""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from rft.errors import RftError
from rft.rewards import plugin
from rft.rewards.judge_config import GATES, PREFIX, Settings
from rft.rewards.shaping import LIMIT_VARIABLE, TOKENIZER_VARIABLE

JUDGE = plugin.BUILTIN["judge"]
GATE_VARIABLE = f"{PREFIX}GATE"


def variables(args: Namespace, gate: str | None, env: Mapping[str, str]) -> dict[str, str]:
    """What rewards may want to know of the run, beside the run's own environment, which wins.

    gate  of --reward_gate, which wins over the environment; None where it was not given
    """
    known = {TOKENIZER_VARIABLE: args.pretrain or "", LIMIT_VARIABLE: str(args.generate_max_len)}
    found = {name: env.get(name) or value for name, value in known.items()}
    if gate is not None:
        if gate not in GATES:
            raise RftError(f"--reward_gate {gate}: pass one of {', '.join(GATES)}")
        found[GATE_VARIABLE] = gate
    return found


def resolve(args: Namespace, env: Mapping[str, str], repo: Path) -> tuple[list[str], dict[str, str]]:
    """(flags that override --remote_rm_url, variables), both empty where OpenRLHF can take the reward as it is.

    raises  RftError that names the flag, if the reward is not there or cannot be one
    """
    spec = args.remote_rm_url
    if not spec:
        return [], {}
    try:
        file, found = plugin.resolve(spec, repo, env)
    except RftError as error:
        raise RftError(f"--remote_rm_url: {error}") from error
    named = ",".join(spec)
    same = file == named or (repo / named).absolute() == Path(file)
    return ([] if same else ["--remote_rm_url", file]), found


def uses_judge(spec: list[str] | None, repo: Path) -> bool:
    """Does the reward, or a part of the composition that it is, ask Gemini?"""
    if not spec or len(spec) != 1:
        return False
    names = [spec[0]]
    if spec[0].endswith(".toml"):
        from rft.rewards import compose_file

        names = compose_file.sources(plugin.find(spec[0], repo))
    return any(Path(plugin.BUILTIN.get(name, name)).name == JUDGE for name in names)


def check_judge(args: Namespace, env: Mapping[str, str], repo: Path) -> str:
    """Settings and credentials of the judge, where the run's reward is the judge: engines take minutes to start.

    returns  the models and where the credentials are from; "" where no judge is asked
    raises   RftError
    """
    if not uses_judge(args.remote_rm_url, repo):
        return ""
    from rft.rewards import judge_client

    settings = Settings.from_environment(env)
    found = judge_client.credentials(settings)
    where = f"Vertex AI, project {found['project']}" if found["vertexai"] else "an API key"
    return f"{', '.join(settings.models)} by {where}"

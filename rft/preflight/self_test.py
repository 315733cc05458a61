"""The reward, tried before it costs anything: a right and a wrong answer to the first prompt, from worker threads.

In a process of its own, with the run's environment and folder, as an engine's process would load it: a reward file is
somebody's code. Rewards that come with the project must pay the right answer more; what another reward means by a
label is its own business, so there only a crash or a result of the wrong shape is a failure.
"""

from concurrent.futures import ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass
from pathlib import Path

from rft.errors import RftError
from rft.preflight.result import Result, Subject, ok, skipped, warn
from rft.preflight.rows import files, rows
from rft.rewards import harmony, plugin, run_reward

ANSWER_S = 90.0  # a sandbox may have to be set up
WRONG_NUMBER = "-918273645"
EXACT, CODE, ACTION = "reward_func_em.py", "reward_func_code.py", "reward_func_action.py"


@dataclass(frozen=True)
class Trial:
    """Texts of a right and a wrong answer, and whether the reward has to tell them apart."""

    right: str
    wrong: str
    strict: bool


def reward(subject: Subject) -> Result:
    spec = subject.args.remote_rm_url
    if not spec:
        return skipped("no reward function: --remote_rm_url is not given")
    if plugin.split(spec)[0].startswith(("http://", "https://")):
        return skipped("a reward server")
    if run_reward.uses_judge(spec, subject.repo):
        return skipped("asks Gemini, which costs money: try it with rft judge-check")
    found = _first_label(subject)
    if found is None:
        return skipped("no local prompt file, so no label to try it with")
    line, label = found
    trial = trial_for(plugin.split(spec)[0], label)
    loaded = plugin.load(spec, subject.repo)
    try:
        right, wrong = _rewards(loaded, trial, label)
    except TimeoutError as err:
        raise RftError(f"{loaded.name}: no reward within {ANSWER_S:.0f} s for {line}; mend the reward") from err
    except RftError:
        raise
    except Exception as err:
        why = plugin.one_line(err)
        raise RftError(f"{loaded.name} fails in a worker thread for {line} ({why}); mend the reward") from err
    paid = f"{loaded.name}: gold {right:g}, wrong {wrong:g}"
    if right > wrong or (right == right and wrong != wrong):  # a masked wrong answer is told apart too
        return ok(f"{paid} ({line})")
    if trial.strict:
        raise RftError(f"{paid} for {line}: a right answer is not paid more; mend the label or the reward")
    return warn(
        f"{paid} for {line}", "the reward's own kind of right answer is not known here: look whether it is meant"
    )


def _rewards(loaded: plugin.Reward, trial: Trial, label: str) -> list[float]:
    """Of the right and of the wrong answer, scored at once in two threads, then as a group, as a rollout does."""
    prompt = f"{harmony.START}user{harmony.MESSAGE}preflight{harmony.END}{harmony.START}assistant"
    queries = [prompt + _harmony(text) for text in (trial.right, trial.wrong)]
    pool = ThreadPoolExecutor(2, thread_name_prefix="reward")  # no context: a thread that hangs is not waited for
    asked = [pool.submit(loaded.score, query, prompt, label) for query in queries]
    results = [one.result(ANSWER_S) for one in asked]
    if loaded.finish_group is not None:
        parts = zip(queries, results, strict=True)
        group = [{"prompt": prompt, "label": label, "query": query, **result} for query, result in parts]
        results = pool.submit(loaded.finish, group).result(ANSWER_S)
    return [result["rewards"] for result in results]


def _first_label(subject: Subject) -> tuple[str, str] | None:
    """(where it stands, label) of the first prompt row."""
    for flag, path in files(subject, ("prompt_data",)):
        for number, _, row in rows(flag, path, subject.args):
            return f"{path.name} line {number}", row.label
    return None


def trial_for(name: str, label: str) -> Trial:
    """What a right and a wrong answer look like to the reward that comes under this file name."""
    known = Path(plugin.BUILTIN.get(name, name)).name
    if known == ACTION:
        from rft.rewards.action import parse_label

        values = parse_label(label)
        best, worst = values.index(max(values)), values.index(min(values))
        return Trial(f"[{best}]", f"[{worst}]", strict=best != worst)
    if known == CODE:
        from rft.rewards.code_task import load

        task = load(label)
        nothing = f"def {task.entry_point}(*arguments):\n    return None\n"
        return Trial(_fenced(task.reference), _fenced(nothing), strict=True)
    boxed = label if "\\boxed" in label else f"\\boxed{{{label}}}"
    return Trial(boxed, f"\\boxed{{{WRONG_NUMBER}}}", strict=known == EXACT)


def _fenced(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"


def _harmony(text: str) -> str:
    return f"{harmony.CHANNEL}final{harmony.MESSAGE}{text}{harmony.RETURN}"

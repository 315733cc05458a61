"""The command ``rft``: verbs in groups, each a module that is imported when it is called, so that help is instant.

A verb is an entry in a group of VERBS: name -> (module, one line of help); its module has ``main(argv) -> int``.
"""

import difflib
import importlib
import os
import sys

from rft.errors import RftError

VERBS: dict[str, dict[str, tuple[str, str]]] = {
    "set-up": {
        "patches": ("rft.patches", "install integrity: status, apply, check, verify, reverse"),
        "tiny": ("rft.tiny.cli", "make the tiny gpt-oss and its data; the tiny run's summary"),
        "dequantise": ("rft.dequantise", "an MXFP4 checkpoint as bf16, bit for bit"),
    },
    "before a run": {
        "plan": ("rft.plan.cli", "will a run fit? memory of GPUs and host, disk, seconds a step"),
        "preflight": ("rft.preflight.cli", "what is wrong with a launch, before it starts: one table"),
        "preflight-lr": ("rft.preflight.lr_cli", "the learning rate of a planned run, step by step"),
        "attempt": ("rft.attempts.cli", "an experiment: branch, notes, tag, launch, entry in the research log"),
    },
    "runs": {
        "runs": ("rft.runs", "list the runs, show one"),
        "report": ("rft.report.cli", "one or several runs as a self-contained HTML page and Markdown"),
        "metrics": ("rft.metrics_cli", "what each figure means; is a run's metrics file whole?"),
        "replay-spike": ("rft.replay_spike", "a dumped gradient spike's loss and gradient again, token by token"),
        "diagnose": ("rft.diagnosis.cli", "what is wrong with a run: rules, evidence, what to do"),
        "monitor": ("rft.monitor.cli", "follow a run on the terminal; --once: a plain snapshot"),
        "samples": ("rft.samples_browser.cli", "browse what the model wrote: filter, search, read"),
        "doctor": ("rft.doctor.cli", "what a run hangs on or died of: stacks, actors, machine; one bundle, a verdict"),
        "disk": ("rft.disk.cli", "what runs, checkpoints and caches take up; --prune by rule"),
        "spare": ("rft.spare.cli", "a second machine: sync, run a job, its status, fetch what it made"),
    },
    "evaluation": {
        "eval-posthoc": ("rft.evals.posthoc_cli", "models, merged checkpoints and adapters against each other"),
        "compare": ("rft.evals.compare_cli", "two runs of an A/B, or two evaluation results, side by side"),
        "power": ("rft.stats.plan", "the smallest difference that a set could detect, before a run"),
        "sft-decision": ("rft.evals.sft_rule", "is a supervised warm start needed? from an evaluation's result"),
    },
    "after training": {
        "export": ("rft.export.cli", "an adapter as a standalone checkpoint (MXFP4, bf16) or as GGUF; on the hub"),
        "run-exported": ("rft.export.run_cli", "ask an exported model, or base and adapter: prompt, file or chat"),
        "smoke-adapter": ("rft.export.smoke_cli", "does an adapter fit its base, and does it change the answers?"),
    },
    "data": {
        "convert-to-harmony": (
            "rft.data.convert_harmony",
            "plain CSV prompts as Harmony prompts, by the model's template",
        ),
        "calculate-reward": (
            "rft.data.calculate_reward",
            "q_action_* columns to reward_action_*, a softmax of each row",
        ),
    },
    "rewards": {
        "score": ("rft.rewards.score_cli", "score files of responses with any reward"),
        "code-task": ("rft.rewards.code_cli", "tasks of the code reward: list, write prompts, try an answer"),
        "judge-check": ("rft.rewards.judge_check", "the Gemini judge: models, canaries, drift on stored verdicts"),
    },
}


def usage() -> str:
    lines = ["usage: rft VERB [options]     (rft VERB --help for a verb's own)"]
    width = max(len(verb) for group in VERBS.values() for verb in group)
    for group, verbs in VERBS.items():
        lines += ["", f"{group}:", *(f"  {verb:<{width}}  {text}" for verb, (_, text) in verbs.items())]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Runs a verb; an RftError is one line and exit status 2."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    table = {verb: entry for group in VERBS.values() for verb, entry in group.items()}
    verb, rest = argv[0], argv[1:]
    try:
        if verb not in table:
            near = difflib.get_close_matches(verb, table, n=1)
            raise RftError(f"rft: unknown verb {verb!r}: {f'did you mean {near[0]}?' if near else 'see rft --help'}")
        return importlib.import_module(table[verb][0]).main(rest)
    except RftError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `rft runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def main_entry() -> None:
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    main_entry()

"""Starts one training run: checks, run folder, Ray, ``openrlhf.cli.train_ppo_ray``, and an end without orphans.

Called by train_grpo.sh as ``python -m rft.launch [options] -- <flags of train_ppo_ray>``. Its own options are known on
both sides of ``--``, so that a user can trail them behind a recipe's flags; everything else goes to OpenRLHF unchanged.
Nothing is started and nothing is written until every check has passed; --dry-run stops before the checks that look at
the machine, and prints the command.

Exit status: 0 finished; 1 (or the training process's own) failed; 2 refused; 128 + n interrupted by signal n.
"""

import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rft import cluster as ray_cluster
from rft import inputs, provenance, runlog, runs, upstream_cli
from rft.attempts import secret
from rft.checkpoints import auto
from rft.config import layers, show, task
from rft.doctor import watchdog
from rft.errors import RftError
from rft.launch_options import USAGE, Options, split_options
from rft.patches import PATCHES_DIR, find_site, series_id, verify
from rft.preflight import first_rollout
from rft.preflight import report as preflight
from rft.preflight.result import Subject
from rft.processes import Family, end
from rft.progress import Progress
from rft.resources import Sampler
from rft.rewards import plugin, run_reward
from rft.supervise import Interrupted, Signals, supervise

CPU_EXTRA = 6  # logical CPUs beside one a rank: the trainer actor and Ray's helper tasks


def run_environment(options: Options) -> dict[str, str]:
    """What the run's processes start with."""
    env = {**os.environ, **environment(options), "PYTHONUNBUFFERED": "1", "RAY_COLOR_PREFIX": "0"}
    # DeepSpeed compiles its ops against this environment's headers: in the user's shared cache two checkouts compile
    # each other's anew at every start, and the lock that a killed compiler leaves there holds up later runs for ever.
    env.setdefault("TORCH_EXTENSIONS_DIR", str(runs.REPO / ".venv" / "torch_extensions"))
    return env


def environment(options: Options) -> dict[str, str]:
    """The variables of --env that the environment does not have already; the last --env of a name wins."""
    wanted = dict(item.split("=", 1) for item in options.env)
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def layout(options: Options, run_id: str) -> runs.Paths:
    """The run's paths, with --save_name where the environment does not say where the adapter goes."""
    paths = runs.layout(run_id)
    if options.save_name and not os.environ.get("RFT_SAVE_DIR"):
        paths = replace(paths, save=str(Path(paths.save).with_name(options.save_name)))
    return paths


def config_text(options: Options) -> str:
    """What --print-config prints and every run keeps as config.yaml; secrets stay where they are."""
    variables = {name: value for name, value in environment(options).items() if not provenance.is_secret(name)}
    return show.whole(secret.keyless(last_wins(options.flags)), vars(options), variables)


def complete_flags(flags: list[str], paths: runs.Paths, resumed: bool) -> list[str]:
    """The flags behind the run layout's --ckpt_path and --save_path, so that a user's own, coming later, win."""
    if "--load_checkpoint" in flags and not resumed and not any(token.startswith("--ckpt_p") for token in flags):
        raise RftError("--load_checkpoint without --ckpt_path: say which run to continue with --resume RUN")
    added = ["--load_checkpoint", "--ckpt_path", paths.ckpt] if resumed else []
    return last_wins(["--ckpt_path", paths.ckpt, "--save_path", paths.save, *flags, *added])


def last_wins(tokens: Sequence[str]) -> list[str]:
    """The tokens without the flags that a later one overrides: what argparse will use, and what a reader wants to see.

    A flag goes with the values that follow it, and stays where it stands last, so that abbreviations keep their turn.
    """
    groups: dict[str, list[str]] = {}
    name = ""
    for token in tokens:
        if token.startswith("--"):
            name = token.split("=")[0]
            groups.pop(name, None)
            groups[name] = [token]
        else:
            groups.setdefault(name, []).append(token)
    return [token for group in groups.values() for token in group]


def train_command(flags: Sequence[str], module: str) -> list[str]:
    return [sys.executable, "-u", "-m", module, *flags]


def print_dry_run(options: Options, module: str) -> None:
    """``NAME=value`` lines, then the command, one token a line; paths under a run named ``<name>-<id>``."""
    paths = layout(options, f"{options.name}-{runs.PLACEHOLDER}")
    paths = runs.Paths(**{key: _relative(value) for key, value in vars(paths).items()})
    if options.resume:
        paths = replace(paths, ckpt=f"<ckpt of {options.resume}>")
    flags = complete_flags(options.flags, paths, options.resume is not None)
    variables = environment(options)
    if upstream_cli.is_patched():
        args = upstream_cli.parse(flags)
        known = run_reward.variables(args, options.reward_gate, {**os.environ, **variables})
        added, found = run_reward.resolve(args, known, runs.REPO)
        flags = last_wins([*flags, *map(_relative, added)])
        gate = {run_reward.GATE_VARIABLE} & known.keys()
        variables |= {name: known[name] for name in gate} | {name: _relative(value) for name, value in found.items()}
    for name, value in variables.items():
        print(f"{name}={value}")
    print("\n".join(["python", "-u", "-m", module, *flags]))


def _relative(path: str) -> str:
    inside = os.path.isabs(path) and Path(path).is_relative_to(runs.REPO)
    return str(Path(path).relative_to(runs.REPO)) if inside else path


def make_tiny(folder: str, family: Family, env: dict[str, str]) -> None:
    """``rft tiny make``: does nothing where a whole one stands already."""
    code = "import sys; from rft.tiny.cli import main; sys.exit(main(['make', '--out', sys.argv[1]]))"
    child = family.start([sys.executable, "-c", code, folder], env, runs.REPO, None)
    if child.wait() != 0:
        raise RftError(f"the tiny model could not be made in {folder} (exit status {child.returncode}, see above)")


def launch(options: Options, module: str) -> int:
    """Checks, starts, watches and ends one run; returns the launcher's exit status."""
    problem = verify(find_site(None), PATCHES_DIR)
    if problem:
        raise RftError(problem)
    hang = {
        "RFT_ON_HANG": options.on_hang,
        "RFT_HANG_FACTOR": options.hang_factor,
        "RFT_HANG_FLOOR_S": options.hang_floor,
    }
    hang = {name: value for name, value in hang.items() if value}
    watchdog.rules({**os.environ, **environment(options), **hang})  # a bad value is refused before anything starts
    out = sys.stderr if options.json else sys.stdout
    options.resume = auto.resolve(options.resume, options.name, lambda line: print(line, file=out, flush=True))
    run_id = runs.new_id(options.name)
    paths = layout(options, run_id)
    if options.resume:
        old = runs.Paths(**runs.read_json(runs.find(options.resume) / runs.RUN_FILE)["paths"])
        paths = replace(paths, ckpt=old.ckpt, metrics=old.metrics, samples=old.samples)
    flags = complete_flags(options.flags, paths, options.resume is not None)
    args = upstream_cli.parse(flags)
    paths = replace(paths, ckpt=args.ckpt_path, save=args.save_path)
    env = run_environment(options)
    env |= {**run_reward.variables(args, options.reward_gate, env), **hang}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(runs.REPO), env.get("PYTHONPATH")]))
    subject, skip = Subject(args, env, runs.REPO, paths), preflight.names_to_skip(options.skip)
    env[first_rollout.SKIP_VARIABLE] = ",".join(skip)
    if options.task:
        task.write(task.of_items(options.task, options.task_set), args.prompt_data, runs.REPO)
    if options.preflight:
        return preflight.alone(subject, skip, options.json)
    joined = env.get("RAY_ADDRESS")
    family = Family()
    with Signals() as signals:
        try:
            if options.tiny:
                make_tiny(options.tiny, family, env)
            checked = preflight.check(subject, skip)
            checked.require()
            if joined:
                ray_cluster.join(joined)
        except BaseException:
            signals.hush()
            family.stop()
            raise
        run = runs.new_run(run_id, options.name, paths, {**_record(options, args, env), "preflight": checked.record()})
        print(checked.summary(), flush=True)
        (run.dir / "config.yaml").write_text(config_text(options), encoding="utf-8")
        reward, found = run_reward.resolve(args, env, runs.REPO)
        env |= found
        if reward:
            flags, args.remote_rm_url = last_wins([*flags, *reward]), [reward[1]]
        return _run(run, options, args, train_command(flags, module), env, family, signals)


def _record(options: Options, args: Namespace, env: dict[str, str]) -> dict:
    """What run.json says about how this run came to be."""
    data = [path for value in (args.prompt_data, args.eval_dataset) if value for path in value.split(",")]
    rewards = [] if not args.remote_rm_url else [plugin.split(args.remote_rm_url)[0]]
    rewards = [name for name in rewards if name.endswith((".py", ".toml"))]
    return {
        "argv": secret.hide(sys.argv),
        "flags": secret.hide(options.flags),
        "resumed_from": options.resume,
        **provenance.commit(runs.REPO),
        "series_id": series_id(),
        "versions": provenance.versions(),
        "data_sha256": provenance.digests([*data, *rewards], runs.REPO),
        "machine": provenance.machine(),
        "environment": provenance.environment(env),
        "seed": args.seed,
        "pretrain": args.pretrain,
    }


def _start_cluster(args: Namespace, env: dict[str, str], family: Family) -> ray_cluster.Cluster:
    if env.get("RAY_ADDRESS"):
        return ray_cluster.Cluster(env["RAY_ADDRESS"])  # it answered before the run's folder was made
    port = int(env["RFT_RAY_PORT"]) if env.get("RFT_RAY_PORT") else None
    if not inputs.is_cpu(env):
        return ray_cluster.start_head(family, env, runs.REPO, None, None, port)
    ranks = inputs.gpus_needed(args)  # logical ones: no device stands behind them
    cpus = max(ranks + CPU_EXTRA, os.cpu_count() or 1)
    store = ray_cluster.CPU_OBJECT_STORE_MB << 20
    return ray_cluster.start_head(family, env, runs.REPO, ranks, cpus, port, store)


def _run(
    run: runs.Run,
    options: Options,
    args: Namespace,
    command: list[str],
    env: dict[str, str],
    family: Family,
    signals: Signals,
) -> int:
    env = {
        **env,
        "METRICS_LOG_DIR": os.path.abspath(run.paths.metrics),
        "SAMPLES_LOG_DIR": os.path.abspath(run.paths.samples),
        "RFT_RUN_ID": run.id,
        "RFT_RUN_DIR": os.path.abspath(run.paths.run_dir),
    }
    progress = Progress(run.paths.metrics_file, from_end=options.resume is not None)
    sampler = Sampler(family, run.dir / "resources.json")
    cluster: ray_cluster.Cluster | None = None
    log = Path(run.paths.log)
    status, code, error = "failed", 1, None
    try:
        progress.say(f"run {run.id}  log {_relative(run.paths.log)}  (watch it: bash monitor.sh {run.id})")
        (run.dir / "packages.txt").write_text(provenance.package_list())
        run.update(command=secret.hide(command))
        cluster = _start_cluster(args, env, family)
        env["RAY_ADDRESS"] = cluster.address
        if cluster.head is None:
            env |= ray_cluster.join_env(env)
            command = [*command, *inputs.absolute_paths(args, runs.REPO)]
        sampler.start()
        alive = cluster.head_alive
        returned = supervise(family, command, env, runs.REPO, log, progress, options.verbose, alive)
        status, code = ("finished", 0) if returned == 0 else ("failed", returned if returned > 0 else 1)
        error = None if returned == 0 else runlog.cause(log, returned)
    except Interrupted as stop:
        status, code, error = "interrupted", stop.exit_code, stop.name
    except RftError as err:
        error = str(err)
    finally:
        signals.hush()
        _teardown(run, family, cluster, sampler, status, progress)
        run.finish(status, code, error)
    _say_end(run, progress, sampler, status, error)
    return code or _after(options, args, run, env)


def _teardown(run, family: Family, cluster, sampler: Sampler, status: str, progress: Progress) -> None:
    """Training process first, Ray's head second, then whatever lingers; the logs of a failed run are kept."""
    if status == "interrupted":
        progress.say("stopping: taking the run's engines and Ray down …")
    for child in family.owned():
        if cluster is None or child is not cluster.head:
            end(child, 5.0)
    if cluster is not None:
        cluster.stop()
    survivors = family.stop()
    if sampler.is_alive():
        sampler.stop()
    if cluster is not None:
        if status == "failed":
            cluster.save_logs(Path(run.paths.log).parent / "ray")
        cluster.remove_temp()
    if survivors:
        pids = ", ".join(str(process.pid) for process in survivors)
        print(f"warning: processes that not even SIGKILL ended: {pids}", file=sys.stderr)


def _say_end(run: runs.Run, progress: Progress, sampler: Sampler, status: str, error: str | None) -> None:
    took = runs.duration(time.time() - run.record["start"])
    if status == "finished":
        progress.say(f"finished in {took}, peak memory {sampler.peaks['peak_rss_bytes'] / 2**30:.1f} GiB  {run.id}")
    elif status == "interrupted":
        progress.say(f"interrupted by {error} after {took}; nothing of it is running any more")
        progress.say(f"continue with: --resume {run.id}")
    else:
        progress.say("")
        print(f"error: training failed: {error} (log: {_relative(run.paths.log)})", file=sys.stderr)
    if run.paths.metrics_file.is_file():
        from rft.diagnosis.line import at_end  # imports numpy: not for --help and --dry-run

        progress.say(at_end(run.dir))


def _after(options: Options, args: Namespace, run: runs.Run, env: dict[str, str]) -> int:
    """The tiny summary (of a run that evaluates), and --after's module, each in a process of its own."""
    modules = ["rft.tiny.summary"] if options.tiny and args.eval_dataset else []
    modules += [options.after] if options.after else []
    code = "import importlib, sys; sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[2:]))"
    for module in modules:
        done = subprocess.run([sys.executable, "-c", code, module, str(run.dir)], env=env, cwd=runs.REPO, check=False)
        if done.returncode != 0:
            print(f"error: {module} failed on {run.dir} (exit status {done.returncode})", file=sys.stderr)
            return 1
    return 0


def main(argv: Sequence[str], module: str = upstream_cli.MODULE) -> int:
    """module: the training module to run; another one only in tests."""
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    try:
        options = split_options(layers.merge(argv))
        if options.print_config:
            upstream_cli.parse(options.flags)
            print(config_text(options), end="")
            return 0
        if options.dry_run:
            print_dry_run(options, module)
            return 0
        return launch(options, module)
    except RftError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        return stop.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A run folder with every file that a report reads, made up."""

import json

import histories

from rft import metrics, runs

NASTY = '<script>alert(1)</script><img src="http://nowhere/x.png">'


def make_run(folder, records, flags=None, **about):
    """A run folder with every file that a report reads."""
    for part in ("metrics", "samples"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    lines(folder / "metrics" / runs.METRICS_FILE, records)
    argv = [item for key, value in (flags or {}).items() for item in (f"--{key}", value)]
    record = {"id": folder.name, "status": "finished", "start": 1.7e9, "end": 1.7e9 + 3725, "flags": argv, **about}
    (folder / runs.RUN_FILE).write_text(json.dumps(record))
    return folder


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def evaluation_file(folder, step, right):
    """eval_stepN_greedy.jsonl of 202 problems, of which the first `right` are answered."""
    rows = [
        {"index": i, "prompt": f"p{i}", "label": str(i), "correct": [float(i < right)], "responses": ["x"]}
        for i in range(202)
    ]
    lines(folder / "samples" / f"eval_step{step}_greedy.jsonl", rows)


def full_run(tmp_path):
    """Sixty steps, three evaluations, samples, a sync that disagrees, a gradient spike."""
    records, flags = histories.lines(histories.healthy(0), {0: 70 / 202, 30: 90 / 202, 60: 110 / 202})
    for record in records:
        if record["event"] == "train":
            record |= {f"{phase}_s": 1.0 for phase in metrics.PHASES} | {"step_s": 8.0, "my_own_figure": record["step"]}
            record["spikes"] = int(record["step"] == 40)
    folder = make_run(tmp_path / "run-a", records, flags, commit="abc123", seed=42)
    for step, right in ((0, 70), (30, 90), (60, 110)):
        evaluation_file(folder, step, right)
    sample = {"step": 60, "prompt": NASTY, "label": "7", "response": NASTY + "\x00", "correctness": 0.0}
    samples = [{**sample, "reward": i / 20, "truncated": float(i == 3), "response_length": 10.0} for i in range(20)]
    lines(folder / "samples" / "samples_step60.jsonl", samples)
    rank = {"rank": 0, "version": 1, "digest": "d0"}
    good = {"version": 1, "digests": ["d0"], "engines": [{"ranks": [rank]}], "sync_s": 0.5, "canary": {"served": 1.0}}
    bad = {**good, "version": 2, "engines": [{"ranks": [{**rank, "version": 1}]}]}
    lines(folder / "metrics" / "sync_log.jsonl", [good, bad])
    spike = {"optimizer_step": 80, "rank": 0, "grad_norm": 512.0, "log_ratio_raw_max": 11.5, "prompt_hashes": ["ab12"]}
    tokens = [{"text": " therefore"}]
    lines(folder / "metrics" / "spike_log.jsonl", [spike, {**spike, "grad_norm": None, "worst_tokens": tokens}])
    return folder

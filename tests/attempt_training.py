"""Stands in for openrlhf.cli.train_ppo_ray in tests/engine/test_attempt_runs.py: writes what a training run writes.

Its figures depend on --eps_clip: 0.1 ends with 110 of 202 problems right, any other value with 90.
"""

import json
import os
import sys
from pathlib import Path

import histories
from report_kit import lines

argv = sys.argv[1:]
tight = argv[len(argv) - argv[::-1].index("--eps_clip")] == "0.1"
metrics, samples = Path(os.environ["METRICS_LOG_DIR"]), Path(os.environ["SAMPLES_LOG_DIR"])
if os.environ.get("FAIL"):
    sys.exit("RuntimeError: the tokens ran out")
scores = {0: 70, 60: 110 if tight else 90}
records, _ = histories.lines(histories.healthy(int(tight)), {step: right / 202 for step, right in scores.items()})
lines(metrics / "training_metrics.jsonl", records)
for step, right in scores.items():
    rows = [
        {"index": i, "prompt": f"p{i}", "label": str(i), "correct": [float(i < right)], "responses": ["x"]}
        for i in range(202)
    ]
    lines(samples / f"eval_step{step}_greedy.jsonl", rows)
print(json.dumps({"attempt": os.environ.get("RFT_ATTEMPT"), "arm": os.environ.get("RFT_ATTEMPT_ARM")}))

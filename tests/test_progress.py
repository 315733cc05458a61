"""Progress lines from a metrics file that grows, tears and lies."""

import io
import json

from rft.progress import Follower, Progress, eval_line, train_line


def test_follower_waits_for_torn_lines_and_passes_over_noise(tmp_path):
    file = tmp_path / "m.jsonl"
    follower = Follower(file)
    assert follower.poll() == []
    file.write_bytes(b'{"step": 1}\nnoise\n[1]\n\xff\xfe\n{"st')
    assert follower.poll() == [{"step": 1}]
    with open(file, "ab") as out:
        out.write(b'ep": 2}')
    assert follower.poll() == []
    with open(file, "ab") as out:
        out.write(b'\n{"step": 3}\n')
    assert follower.poll() == [{"step": 2}, {"step": 3}]
    assert Follower(file, from_end=True).poll() == []


def test_train_line():
    line = {"step": 3, "total_steps": 40, "reward_mean": 0.4375, "correctness": 0.5, "entropy_mean": 1.2345}
    line |= {"grad_norm": 0.5234, "generate_s": 4.12, "old_logprob_s": 2, "train_s": 3.3, "sync_s": 0.01, "kl": None}
    text = "step  3/40  reward 0.438  correct 0.500  entropy 1.234  grad 0.523  kl -  "
    assert train_line(line, 312) == text + "gen 4.1 logp 2.0 train 3.3 s  ETA 5m12s"
    assert train_line({}) == "step ?"


def test_eval_line():
    line = {"step": 0, "mode": "greedy_pass@1", "accuracy": 0.39, "n_problems": 100, "n": 1, "temperature": 0.0}
    expected = "eval after step 0  greedy_pass@1 0.390  (100 problems, n=1, T=0, heldout.jsonl)  4.2 s"
    assert eval_line({**line, "dataset": "data/heldout.jsonl", "eval_s": 4.21}) == expected
    assert eval_line({}) == "eval after step ?  accuracy -"


def test_progress_prints_each_line_once_with_an_eta_from_wall_time(tmp_path):
    file, out = tmp_path / "m.jsonl", io.StringIO()
    progress = Progress(file, out=out)
    for step, now in ((1, 100.0), (2, 110.0), (3, 130.0)):
        with open(file, "a") as metrics:
            metrics.write(
                json.dumps({"event": "train", "step": step, "total_steps": 5, "time": now, "step_s": 9.0}) + "\n"
            )
        progress.poll()
        progress.poll()
    etas = [line.split("ETA ")[1] for line in out.getvalue().splitlines()]
    assert etas == ["36s", "28s", "26s"]  # 4 x 9; 3 x mean(9, 10); 2 x mean(9, 10, 20)


def test_status_is_rare_where_there_is_no_terminal(tmp_path):
    out = io.StringIO()
    progress = Progress(tmp_path / "m.jsonl", out=out)
    for second in range(50):
        progress.status(f"starting {second}")
    assert out.getvalue() == ""


def test_status_is_overwritten_on_a_terminal(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    progress = Progress(tmp_path / "m.jsonl", out=out)
    progress.status("starting 10 s")
    progress.say("step 1")
    assert out.getvalue() == "\rstarting 10 s\r" + " " * 13 + "\rstep 1\n"

"""The figures of one result, from its problems (rft/evals/results.py): accuracy, format, length, with intervals.

    accuracy, accuracy_ci95    mean over problems; Wilson for one answer a problem, over problems for several
    pass_at                    {"1": …, "n": …}, unbiased; maj: majority vote; n > 1 only
    boxed, final_channel, truncated, unparseable    shares of all samples
    tokens_mean _p50 _p90 _max                      where the tokens were counted
    fragile                    n > 1: ids of problems whose answers are neither all right nor all wrong

Fractions in [0, 1]. The statistics are rft/stats/'s.
"""

from rft.stats import intervals, passk

FORMAT = ("boxed", "final_channel", "truncated", "unparseable")


def of(problems: list[dict]) -> dict:
    import numpy as np

    correct = np.asarray([problem["correct"] for problem in problems], dtype=np.float64)  # (P, n)
    n = correct.shape[1]
    if n == 1:
        interval = intervals.wilson(float(correct.sum()), correct.size)
    else:
        interval = intervals.mean_interval(passk.avg_at_n(correct))
    found = {"accuracy": float(correct.mean()), "accuracy_ci95": [interval.low, interval.high]}
    if n > 1:
        every = passk.pass_at_every_k(correct).mean(axis=0)
        answers = [[answer or None for answer in problem["answers"]] for problem in problems]
        found["pass_at"] = {str(k + 1): float(value) for k, value in enumerate(every)}
        found["maj"] = float(passk.maj_at_n(correct, answers).mean())
    for key in FORMAT if "boxed" in problems[0] else ():
        found[key] = float(np.mean([problem[key] for problem in problems]))
    if all(problem["tokens"] for problem in problems):
        tokens = np.asarray([problem["tokens"] for problem in problems])  # (P, n)
        found["tokens_mean"], found["tokens_max"] = float(tokens.mean()), int(tokens.max())
        found["tokens_p50"], found["tokens_p90"] = (float(np.quantile(tokens, q)) for q in (0.5, 0.9))
    if n > 1:
        found["fragile"] = [problem["id"] for problem in problems if len(set(problem["correct"])) > 1]
    return found

#!/usr/bin/env python
"""What evaluation costs beside generation: the programs' own path against a bare ``LLM.generate``, in one run.

    python benchmarks/eval_overhead.py --json

Both engines hold the same model, get the same prompts, seeds and limits, and take turns. *Bare* is one call of
``LLM.generate`` with all prompts. *Evaluation* is what eval_baseline.py does once its engine runs: submit all requests,
decode, grade, append each sample to the file, move the bar, force the file to the disk. The tiny model never ends its
answers here (a copy without end tokens): each has the length asked for, from half of ``--max_tokens`` to all of it, the
same for both. Answers of one length would all end in the same step of the engine, as those of no model do.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # where rft is not installed
LIMIT = 1.03


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", type=Path, default=ROOT / "data/tiny/seed0/model-bf16", help="folder (the tiny twin)"
    )
    parser.add_argument("--set", type=Path, default=ROOT / "data/tiny/seed0/heldout.jsonl", help="problems")
    parser.add_argument("--samples", type=int, default=4, help="answers a problem (4)")
    parser.add_argument("--max_tokens", type=int, default=768, help="longest answer (768)")
    parser.add_argument("--rounds", type=int, default=5, help="of each, in turns (5)")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        os.environ["RFT_EVALS_DIR"] = work
        model = endless(args.model, Path(work) / "model")
        found = asyncio.run(measure(model, args, Path(work)))
    for way in ("bare", "evaluation"):
        print(f"{way:>10}: {found[way]['median_s']:.2f} s, {found[way]['tokens_per_s']:,.0f} tok/s")
    print(f"evaluation / bare: {found['ratio']:.3f} (limit {LIMIT}); of {found['tokens']:,} tokens a round")
    if args.json:
        print(json.dumps(found))
    return 0 if found["ratio"] <= LIMIT else 1


def endless(source: Path, target: Path) -> Path:
    """A copy whose end token is one that is never sampled: the padding's."""
    shutil.copytree(source, target)
    for name in ("config.json", "generation_config.json"):
        entries = json.loads((target / name).read_text())
        entries["eos_token_id"] = entries["pad_token_id"]
        (target / name).write_text(json.dumps(entries))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):  # vLLM takes the tokenizer's end token too
        entries = json.loads((target / name).read_text())
        entries["eos_token"] = entries["pad_token"]
        (target / name).write_text(json.dumps(entries))
    return target


async def measure(folder: Path, args: argparse.Namespace, work: Path) -> dict:
    from rft.evals import models, modes, prompts, sets, vllm_engine

    tokenizer = models.tokenizer(folder)
    one = sets.load(str(args.set), work)
    rendered = prompts.render(one, tokenizer, None, None, prompts.date(None))
    longest = rendered.longest + args.max_tokens
    mode = modes.parse(f"sampling_pass@{args.samples}", 1.0)
    engine = await vllm_engine.start(folder, None, "sidepath", 1, longest, 0.5, False, False)
    bare = await asyncio.to_thread(bare_engine, folder, longest)
    times: dict[str, list[float]] = {"bare": [], "evaluation": []}
    tokens = {}
    try:
        for number in range(-1, args.rounds):  # the first of each warms up
            order = ("bare", "evaluation") if number % 2 else ("evaluation", "bare")
            for way in order:
                path = work / f"{number}.jsonl"
                job = make_job(one, mode, rendered, path, args.max_tokens)
                if way == "bare":
                    seconds, tokens[way] = await asyncio.to_thread(generate_bare, bare, job)
                else:
                    seconds, tokens[way] = await generate_evaluated(engine, job, path, tokenizer)
                if number >= 0:
                    times[way].append(seconds)
    finally:
        await engine.close()
        bare.llm_engine.engine_core.shutdown()
    if len(set(tokens.values())) != 1:
        raise SystemExit(f"error: not the same work: {tokens} tokens")
    found = {"tokens": tokens["bare"], "rounds": args.rounds}
    for way, seconds in times.items():
        median = statistics.median(seconds)
        found[way] = {"median_s": median, "seconds": seconds, "tokens_per_s": tokens[way] / median}
    ratios = [e / b for e, b in zip(times["evaluation"], times["bare"], strict=True)]
    return {**found, "ratio": statistics.median(ratios), "ratios": ratios}


def bare_engine(folder: Path, longest: int):
    from vllm import LLM

    from rft import rollout_seed

    options = {"dtype": "bfloat16", "enforce_eager": True, "max_model_len": longest, "disable_log_stats": True}
    return LLM(str(folder), gpu_memory_utilization=0.4, **options, **rollout_seed.engine_options())


def make_job(one, mode, rendered, path: Path, max_tokens: int):
    from rft.evals import records, work

    class Job(work.Job):
        """Answers of different lengths."""

        def _request(self, job: int, problem: str, sample: int):
            request = super()._request(job, problem, sample)
            share = random.Random(f"{problem} {sample}").uniform(0.5, 1.0)
            return dataclasses.replace(request, max_tokens=int(max_tokens * share))

    samples = records.Samples(path, {"n": mode.n, "data_set": one.name, "mode": mode.name})
    job = Job("tiny", None, one, mode, rendered, samples, max_tokens, 42)
    job.find_missing()
    return job


def generate_bare(llm, job) -> tuple[float, int]:
    from vllm import SamplingParams

    requests = job.requests(0)
    params = [
        SamplingParams(temperature=r.temperature, max_tokens=r.max_tokens, min_tokens=1, seed=r.seed) for r in requests
    ]
    start = time.perf_counter()
    prompts = [{"prompt_token_ids": list(r.token_ids)} for r in requests]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - start
    return seconds, sum(len(output.outputs[0].token_ids) for output in outputs)


async def generate_evaluated(engine, job, path: Path, tokenizer) -> tuple[float, int]:
    from functools import partial

    from rft.evals import records, work
    from rft.evals.bar import Bar

    with records.open_samples(path, job.samples.settings) as samples:
        job.samples = samples
        bar = Bar([(job.name, 0, 0, len(job.missing))])
        decode = partial(tokenizer.decode, skip_special_tokens=False)
        start = time.perf_counter()
        with bar.shown(), work.Writer([job], decode, bar.seen) as writer:
            await work.fill(engine, [job], writer)
        seconds = time.perf_counter() - start
    return seconds, bar.tokens


if __name__ == "__main__":
    sys.exit(main())

"""``rft smoke-adapter``: does an adapter fit its base, and does it change what the model says?

Checks the adapter's digests, the base's fingerprint, names, ranks and shapes; then loads both, compares log-probs of
the base's greedy answers with and without the adapter, and prints sample answers of both. An adapter that changes
nothing is an error. ``--quantized`` keeps the experts MXFP4 while the model runs.
"""

import argparse
from pathlib import Path

from rft.errors import RftError

QUESTIONS = ("What is 7 + 5?", "What is 12 + 30?")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="rft smoke-adapter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("adapter", type=Path, help="a run's final/ or global_step*_hf")
    made.add_argument("--base", metavar="ID", help="folder or hub id (default: the one that the adapter names)")
    made.add_argument("--quantized", action="store_true", help="run on MXFP4 experts instead of their bf16 values")
    made.add_argument("--prompt", action="append", help="a question (repeat it for several)")
    made.add_argument("--reasoning", choices=("low", "medium", "high"), default="medium")
    made.add_argument("--max_tokens", type=int, default=64, help="of each answer (default 64)")
    made.add_argument("--temperature", type=float, default=0.0, help="of the samples (default 0: greedy)")
    made.add_argument("--seed", type=int, default=0)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    from rft.export import adapter as adapters
    from rft.export import base as bases
    from rft.export.changes import plan

    adapter = adapters.read(args.adapter)
    base = bases.find(adapter, args.base)
    changes = plan(adapter, base)
    if args.quantized and any(change.experts for change in changes.values()):
        raise RftError(f"{args.adapter}: it targets experts, which --quantized keeps frozen; leave --quantized out")
    known = "trained on this base" if base.certain else "whether it was trained on this base is not known"
    print(f"adapter  {adapter.digest[:12]}  r {adapter.rank}, alpha {adapter.alpha:g}, {len(changes)} weights; {known}")
    print(f"base     {base.fingerprint[:12]}  {base.name}")
    largest = compare(args, adapter, base)
    if largest == 0:
        raise RftError(
            f"{args.adapter}: it changes no log-prob at all; its B is zero, name a checkpoint of a later step"
        )
    return 0


def compare(args: argparse.Namespace, adapter, base) -> float:
    """Prints figures and samples; returns the largest |Δ log p|, nats."""
    from transformers.utils import logging

    from rft.evals import models
    from rft.export.answering import Sampling, generate, load, prompt_ids, with_adapter

    logging.set_verbosity_error()
    tokenizer = models.tokenizer(base.folder)
    model = with_adapter(load(base.folder, resident=args.quantized), adapter.path)
    sampling = Sampling(args.max_tokens, args.temperature, seed=args.seed)
    gaps = []
    for question in args.prompt or QUESTIONS:
        ids = prompt_ids(tokenizer, [{"role": "user", "content": question}], args.reasoning)
        with model.disable_adapter():
            greedy, _ = generate(model, tokenizer, ids, Sampling(args.max_tokens, 0.0), lambda text: None)
            without, _ = generate(model, tokenizer, ids, sampling, lambda text: None)
            before = log_probs(model, ids, greedy)
        after = log_probs(model, ids, greedy)
        gaps += (after - before).abs().tolist()
        answer, _ = generate(model, tokenizer, ids, sampling, lambda text: None)
        print(f"\n> {question}\n  without: {_line(tokenizer, without)}\n  with:    {_line(tokenizer, answer)}")
    print(
        f"\nlog-probs of {len(gaps)} tokens of the base's greedy answers, with against without the adapter: "
        f"mean |Δ| {sum(gaps) / len(gaps):.4f}, max {max(gaps):.4f} nats"
    )
    return max(gaps)


def log_probs(model, prompt: list[int], answer: list[int]):
    """(A,) float32 log-probs of the answer's tokens, nats."""
    import torch

    ids = torch.tensor([prompt + answer], device=model.device)
    with torch.no_grad():
        logits = model(ids).logits[0, len(prompt) - 1 : -1].float()  # (A, V)
    return logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0].cpu()


def _line(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids).replace("\n", "\\n")

"""``rft run-exported``: ask an exported model, or a base with its adapter; one prompt, a file of them, or a chat.

    rft run-exported exports/sums "What is 3 + 4?" --reasoning high
    rft run-exported --adapter runs/ID/final --file prompts.jsonl --engine vllm
    rft run-exported exports/sums                     # a chat: an empty line or Ctrl-D ends it, /new starts over

Answers are printed while they are generated, the final channel as it is, others under their name.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rft.errors import RftError

EFFORTS = ("low", "medium", "high")
PROMPT_KEYS = ("input", "prompt", "problem", "question")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="rft run-exported", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("model", nargs="?", help="folder or hub id of an exported model (leave out with --adapter)")
    made.add_argument("prompt", nargs="?", help="one question; with neither prompt nor file: a chat")
    made.add_argument("--adapter", type=Path, metavar="DIR", help="base and adapter instead of an exported model")
    made.add_argument("--base", metavar="ID", help="with --adapter; default: the base that it names")
    made.add_argument("--file", type=Path, help=".jsonl: a prompt a line (input, prompt, …); other files: one prompt")
    made.add_argument("--system", help="developer message of every conversation")
    made.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    made.add_argument("--engine_model", metavar="DIR", help="vllm on a CPU: the bf16 twin (default: MODEL-bf16)")
    made.add_argument("--reasoning", choices=EFFORTS, default="medium", help="the template's reasoning effort")
    made.add_argument("--max_tokens", type=int, default=1024, help="of an answer (default 1024)")
    made.add_argument("--max_model_len", type=int, default=4096, help="vllm: of a conversation (default 4096)")
    made.add_argument("--temperature", type=float, default=1.0, help="0: greedy (default 1)")
    made.add_argument("--top_p", type=float, default=1.0)
    made.add_argument("--seed", type=int)
    made.add_argument("--raw", action="store_true", help="print the answer with its markers")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.adapter is not None and args.model is not None and args.prompt is None:
        args.model, args.prompt = None, args.model  # with --adapter the only word is the question
    if (args.adapter is None) == (args.model is None):
        raise RftError("name an exported model, or --adapter DIR with its base: one of the two")
    if args.prompt is not None and args.file is not None:
        raise RftError("a prompt and --file are both given: one of the two")
    if args.max_tokens < 1 or args.temperature < 0 or not 0 < args.top_p <= 1:
        raise RftError("--max_tokens is at least 1, --temperature at least 0, --top_p in (0, 1]")
    questions = [args.prompt] if args.prompt is not None else _questions(args.file) if args.file else None
    folder = _folder(args)
    from rft.export.answering import Sampling, open_model

    model = open_model(args.engine, folder, args.adapter, args.max_model_len, args.engine_model)
    try:
        chat = Chat(model, Sampling(args.max_tokens, args.temperature, args.top_p, args.seed), args)
        if questions is None:
            chat.talk(sys.stdin)
        for number, question in enumerate(questions or ()):
            if len(questions) > 1:
                print(("\n" if number else "") + f"> {question}")
            chat.start()
            chat.ask(question)
    finally:
        model.close()
    return 0


def _folder(args: argparse.Namespace) -> Path:
    from rft.evals import models

    if args.adapter is None:
        return models.locate(args.model, "MODEL")
    from rft.export import adapter as adapters
    from rft.export import base as bases
    from rft.export.changes import plan

    found = adapters.read(args.adapter)
    base = bases.find(found, args.base)
    plan(found, base)
    return base.folder


def _questions(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise RftError(f"--file {path}: not readable ({err}); give a text or .jsonl file") from err
    if path.suffix != ".jsonl":
        found = [text.strip()]
    else:
        found = list(_rows(path, text))
    if not any(found):
        raise RftError(f"--file {path}: no prompt in it")
    return found


def _rows(path: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = next(key for key in PROMPT_KEYS if isinstance(row.get(key), str))
        except (ValueError, AttributeError, StopIteration) as err:
            raise RftError(f"--file {path} line {number}: no JSON object with one of {', '.join(PROMPT_KEYS)}") from err
        yield row[key]


class Chat:
    """A conversation: every answer's final text stays in it, its reasoning does not, as Harmony wants it."""

    def __init__(self, model, sampling, args: argparse.Namespace):
        self.model, self.sampling, self.args = model, sampling, args
        self.start()

    def start(self) -> None:
        self.messages = [{"role": "system", "content": self.args.system}] if self.args.system else []

    def ask(self, question: str) -> str:
        """Prints the answer as it comes; returns its final text."""
        from rft.export.answering import prompt_ids
        from rft.export.transcript import View
        from rft.rewards.harmony import final_text

        self.messages.append({"role": "user", "content": question})
        view = None if self.args.raw else View()
        ids = prompt_ids(self.model.tokenizer, self.messages, self.args.reasoning)
        sampled, finish = self.model.answer(ids, self.sampling, lambda text: _show(view.feed(text) if view else text))
        _show((view.finish() if view else "") + "\n")
        if finish == "length":
            print(f"(cut off at --max_tokens {self.sampling.max_tokens})", file=sys.stderr)
        found = final_text(self.model.tokenizer.decode(sampled))
        answer = found.text if found else ""
        self.messages.append({"role": "assistant", "content": answer})
        return answer

    def talk(self, source) -> None:
        while True:
            if source.isatty():
                print("> ", end="", flush=True)
            line = source.readline().strip()
            if not line:
                return
            if line == "/new":
                self.start()
            else:
                self.ask(line)


def _show(text: str) -> None:
    print(text, end="", flush=True)

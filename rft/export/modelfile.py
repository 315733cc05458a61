"""Ollama's Modelfile of an export: model or adapter, template, stop tokens, parameters of the run.

Ollama's templates are Go's; the model's is Jinja. `fragments` renders the Jinja one on conversations of marks and cuts
the text between them, which gives what stands around each kind of message; `render` puts these into a Go template. A
template that this cannot tell is refused.
Source: https://github.com/ollama/ollama/blob/main/docs/ (modelfile.md, template.md).
"""

import datetime
from dataclasses import dataclass

from rft.errors import RftError

SYSTEM, USER, ANSWER, LAST = (f"\ue000{letter}\ue001" for letter in "SUAL")  # private use: in no template
OLLAMA_BASES = {24: "gpt-oss:20b", 36: "gpt-oss:120b"}  # by layers


@dataclass(frozen=True)
class Fragments:
    """What stands before the first message, before and after each kind, and where the assistant is to begin."""

    head: str
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    tail: str


def fragments(tokenizer, effort: str = "medium") -> Fragments:
    def text(*messages: tuple[str, str], begin: bool = True) -> str:
        chat = [{"role": role, "content": content} for role, content in messages]
        options = {"tokenize": False, "add_generation_prompt": begin, "reasoning_effort": effort}
        return tokenizer.apply_chat_template(chat, **options)

    def without(whole: str, start: str = "", end: str = "") -> str:
        if not whole.startswith(start) or not whole.endswith(end) or len(whole) < len(start) + len(end):
            raise RftError("the chat template depends on more than a message's role; write the Modelfile's by hand")
        return whole[len(start) : len(whole) - len(end)]

    users = text(("user", USER), ("user", LAST))
    before, after_last = users.partition(USER)[0], users.partition(LAST)[2]
    user_end = text(("user", USER), ("user", LAST), begin=False).partition(LAST)[2]
    user_start = without(users.partition(USER)[2].partition(LAST)[0], user_end)
    head = without(before, "", user_start)
    talk = text(("user", USER), ("assistant", ANSWER), ("user", LAST))
    answer_start = without(talk.partition(USER)[2].partition(ANSWER)[0], user_end)
    answer_end = without(talk.partition(ANSWER)[2].partition(LAST)[0], "", user_start)
    told = text(("system", SYSTEM), ("user", USER))
    system_start = without(told.partition(SYSTEM)[0], head)
    system_end = without(told.partition(SYSTEM)[2].partition(USER)[0], "", user_start)
    return Fragments(
        head,
        (system_start, system_end),
        (user_start, user_end),
        (answer_start, answer_end),
        without(after_last, user_end),
    )


def template(parts: Fragments) -> str:
    """The same as a Go template, as Ollama fills it."""
    literal = "".join((parts.head, *parts.system, *parts.user, *parts.assistant, parts.tail))
    if "{{" in literal or '"""' in literal:
        raise RftError("the chat template writes {{ or triple quotes; write the Modelfile's by hand")
    today = datetime.date.today().isoformat()
    head = parts.head.replace(today, "{{ currentDate }}")
    system, user, answer = (
        "{{ .System }}".join(parts.system),
        *map("{{ .Content }}".join, (parts.user, parts.assistant)),
    )
    return (
        head
        + ("{{ if .System }}" + system + "{{ end }}")
        + ('{{ range .Messages }}{{ if eq .Role "user" }}' + user)
        + ('{{ else if eq .Role "assistant" }}' + answer + "{{ end }}{{ end }}")
        + parts.tail
    )


def render(model: str, adapter: str | None, tokenizer, stops: list[int], facts: dict) -> str:
    """model: what FROM names; adapter: what ADAPTER names; facts: of the run (`rft.export.card.of_run`)."""
    recipe = facts.get("recipe", {})
    lines = [f"FROM {model}", *([f"ADAPTER {adapter}"] if adapter else [])]
    lines += [f'TEMPLATE """{template(fragments(tokenizer))}"""']
    lines += [f'PARAMETER stop "{tokenizer.convert_ids_to_tokens(stop)}"' for stop in stops]
    lines += [
        f"PARAMETER temperature {recipe.get('temperature', '1.0')}",
        f"PARAMETER top_p {recipe.get('top_p', '1.0')}",
    ]
    lengths = [recipe.get("prompt_max_len"), recipe.get("generate_max_len")]
    if all(lengths):
        lines += [f"PARAMETER num_ctx {sum(map(int, lengths))}", f"PARAMETER num_predict {lengths[1]}"]
    return "\n".join([*lines, ""])

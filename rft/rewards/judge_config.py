"""Settings of the Gemini judge: one environment variable each, read once a process, in ``Settings.from_environment``.

The names, defaults and meanings stand in `Settings` alone; `table` prints them (``rft judge-check --help``). Imports
nothing heavy. A value that does not parse, a variable whose name is unknown and a model whose alias drifts are each
one RftError.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

from rft.errors import RftError

PREFIX = "RFT_JUDGE_"
KEY_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
GATES = ("none", "correct")
BACKENDS = ("auto", "api", "vertex")
THINKING = ("", "minimal", "low", "medium", "high")

# USD per million tokens, input/output, for prompts up to 200,000 tokens (ai.google.dev/gemini-api/docs/pricing).
PRICES = "gemini-3.1-pro-preview=2/12,gemini-3-pro-preview=2/12,gemini-3-flash-preview=0.5/3"


def _option(default, text: str, zero: bool = False):
    """`zero`: a number of 0 is a value too (mostly "no limit")."""
    return field(default=default, metadata={"help": text, "zero": zero})


@dataclass(frozen=True)
class Settings:
    """What the environment says. Seconds, US dollars, tokens; 0 means "no limit" where the text says so."""

    models: tuple[str, ...] = _option(
        ("gemini-3.1-pro-preview", "gemini-3-flash-preview"), "chain of models, first choice first, comma-separated"
    )
    gate: str = _option("none", "none: 0.6 c + 0.4 q; correct: quality is paid to correct answers only (--reward_gate)")
    backend: str = _option(
        "auto", "api, vertex, or auto: an API key if there is one (and no GOOGLE_GENAI_USE_VERTEXAI)"
    )
    base_url: str = _option("", "another address of the API: a proxy, a test server")
    deadline_s: float = _option(
        180.0, "seconds for one answer, queueing and retries included; as much for a group's end"
    )
    attempt_s: float = _option(60.0, "seconds for one HTTP call")
    attempts: int = _option(4, "calls for one answer and model, the first one included")
    backoff_s: float = _option(1.0, "longest wait before the second call; doubles with each further one", zero=True)
    concurrency: int = _option(64, "calls under way at once, a process")
    rpm: float = _option(600.0, "requests a minute and model, over all processes; 0: no limit", zero=True)
    tpm: float = _option(2_000_000.0, "tokens a minute and model, over all processes; 0: no limit", zero=True)
    cost_cap_usd: float = _option(
        100.0, "judging stops before a ledger's total passes this many dollars; 0: no limit", zero=True
    )
    prices: str = _option(PRICES, "dollars per million tokens, MODEL=INPUT/OUTPUT,...; adds to the default")
    cache: str = _option("", "SQLite file of verdicts, limits and spending (default ~/.cache/rft/judge.sqlite)")
    ledger: str = _option("", "JSONL file, one line a call (default judge_ledger.jsonl in a run's metrics/)")
    canary_every: int = _option(
        50, "judged groups of a process from one canary measurement to the next; 0: never", zero=True
    )
    thinking: str = _option("low", "thinking level of the Gemini 3 models: minimal, low, medium, high; empty: theirs")
    temperature: str = _option("", "sampling temperature; empty: the model's own, as Google advises for Gemini 3")
    max_output_tok: int = _option(8192, "tokens of a reply, its thoughts included")
    max_chars: int = _option(100_000, "characters of an answer that the judge reads; the middle of a longer one is cut")
    breaker_failures: int = _option(5, "failures in a row after which a model rests")
    breaker_cooldown_s: float = _option(30.0, "first rest of a failing model; doubles up to ten times this")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Reads and checks every variable; raises RftError."""
        environ = os.environ if environ is None else environ
        names = {PREFIX + spec.name.upper(): spec for spec in fields(cls)}
        for name in environ:
            if name.startswith(PREFIX) and name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                raise RftError(f"{name}: no such setting{f'; did you mean {near[0]}?' if near else ''}")
        values = {}
        for name, spec in names.items():
            text = environ.get(name)
            try:
                values[spec.name] = _parse(spec, spec.default if text is None else text.strip())
            except ValueError as error:
                raise RftError(f"{name}={text!r}: {error}") from None
        settings = cls(**values)
        settings._check()
        return settings

    def _check(self) -> None:
        for value, allowed, name in (
            (self.gate, GATES, "GATE"),
            (self.backend, BACKENDS, "BACKEND"),
            (self.thinking, THINKING, "THINKING"),
        ):
            if value not in allowed:
                raise RftError(f"{PREFIX}{name}={value!r}: pass one of {', '.join(a or 'empty' for a in allowed)}")
        if not self.models or len(set(self.models)) != len(self.models):
            raise RftError(f"{PREFIX}MODELS={','.join(self.models)!r}: name at least one model, each once")
        for model in self.models:
            if model.endswith("-latest"):
                raise RftError(
                    f"{PREFIX}MODELS: {model!r} changes under the same name, and the reward with it; pin one"
                )
            if self.cost_cap_usd and model not in self.price_table:
                raise RftError(
                    f"{PREFIX}PRICES: no price for {model!r}, so the cap of ${self.cost_cap_usd:g} cannot be kept;"
                    f" add {model}=INPUT/OUTPUT or set {PREFIX}COST_CAP_USD=0"
                )

    @cached_property
    def price_table(self) -> dict[str, tuple[float, float]]:
        return _prices(PRICES) | _prices(self.prices)

    @property
    def cache_path(self) -> Path:
        return Path(self.cache).expanduser() if self.cache else _home() / "judge.sqlite"

    @property
    def ledger_path(self) -> Path:
        if self.ledger:
            return Path(self.ledger).expanduser()
        folder = os.environ.get("METRICS_LOG_DIR")  # of a run
        return (Path(folder) if folder else _home()) / "judge_ledger.jsonl"

    def usd(self, model: str, input_tok: int, output_tok: int) -> float:
        """Price of a call, thoughts counted as output; 0.0 for a model without a price."""
        price_in, price_out = self.price_table.get(model, (0.0, 0.0))
        return (input_tok * price_in + output_tok * price_out) / 1e6


def _home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rft"


def _parse(spec, value):
    if spec.name == "models":
        return value if isinstance(value, tuple) else tuple(m.strip() for m in value.split(",") if m.strip())
    if spec.name == "prices":
        _prices(value)
    if spec.name == "temperature" and value:
        _number(float(value), zero=True)
    if isinstance(spec.default, str):
        return value
    return _number(type(spec.default)(value), spec.metadata["zero"])


def _number(number, zero: bool):
    if not (0 < number < float("inf") or (zero and number == 0)):
        raise ValueError("pass a number " + ("of at least 0" if zero else "above 0"))
    return number


def _prices(text: str) -> dict[str, tuple[float, float]]:
    prices = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        model, _, pair = item.partition("=")
        price_in, _, price_out = pair.partition("/")
        try:
            prices[model.strip()] = (_number(float(price_in), True), _number(float(price_out), True))
        except ValueError:
            raise ValueError(f"{item!r} is not MODEL=INPUT/OUTPUT") from None
    return prices


def table() -> str:
    """Every variable with its default and meaning, one a line."""
    lines = []
    for spec in fields(Settings):
        default = ",".join(spec.default) if isinstance(spec.default, tuple) else spec.default
        shown = f" [{default}]" if default not in ("", None) else ""
        lines.append(f"  {PREFIX + spec.name.upper():<30}{spec.metadata['help']}{shown}")
    return "\n".join(lines)


CREDENTIALS_HELP = (
    f"credentials: an API key in {' or '.join(KEY_VARIABLES)}, or Vertex AI by application-default credentials"
    " (gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS) with GOOGLE_CLOUD_PROJECT"
    " and GOOGLE_CLOUD_LOCATION (default global)"
)

"""A model that answers prompts piece by piece: an export, or base and adapter, through transformers or vLLM.

`open_model` loads one; `Model.answer` calls `show` with text as it is generated, markers included, and returns the
whole and how it ended. Main thread; torch, transformers and vLLM are imported when a model is opened.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rft.errors import RftError
from rft.evals import models

NATIVE_MXFP4 = (7, 5)  # compute capability from which transformers' MXFP4 kernels run


@dataclass(frozen=True)
class Sampling:
    """temperature 0: greedy; seed: None for another answer each time."""

    max_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None


class Model(Protocol):
    tokenizer: object

    def answer(self, token_ids: list[int], sampling: Sampling, show: Callable[[str], None]) -> tuple[list[int], str]:
        """The sampled ids, and ``stop`` or ``length``."""

    def close(self) -> None: ...


def open_model(
    engine: str,
    folder: Path,
    adapter: Path | None,
    max_model_len: int,
    engine_model: str | None = None,
    lora_apply: str = "sidepath",
) -> Model:
    """engine: transformers or vllm. raises  RftError: it cannot be loaded"""
    if engine == "vllm":
        return VllmModel(folder, adapter, max_model_len, engine_model, lora_apply)
    return TransformersModel(folder, adapter)


def prompt_ids(tokenizer, messages: list[dict], effort: str) -> list[int]:
    """The chat template's ids of a conversation, up to where the assistant begins."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, reasoning_effort=effort)


def load(folder: Path, resident: bool = False):
    """The checkpoint by transformers, in eval mode on the GPU if there is one; MXFP4 natively where the device can.

    resident  keep the experts as MXFP4 on any device, by `rft.resident` (`--quantized`)
    """
    import torch
    from transformers import AutoModelForCausalLM, Mxfp4Config

    options = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    cuda = torch.cuda.is_available()
    if (models.config(folder).get("quantization_config") or {}).get("quant_method") == "mxfp4":
        native = cuda and torch.cuda.get_device_capability() >= NATIVE_MXFP4
        if resident or not native:
            options |= {"quantization_config": Mxfp4Config(dequantize=True), "device_map": "cpu"}
    elif resident:
        raise RftError(f"{folder}: its experts are not MXFP4; leave --quantized out")
    try:
        found = AutoModelForCausalLM.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, ImportError) as err:
        raise RftError(
            f"{folder}: transformers cannot load it ({str(err).splitlines()[0][:200]}); export it again"
        ) from err
    if resident:
        from rft.resident.experts import replace_experts

        replace_experts(found)
    return (found.to("cuda") if cuda else found).eval()


def with_adapter(model, adapter: Path):
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter).eval()
    except (OSError, ValueError, RuntimeError) as err:
        raise RftError(
            f"{adapter}: PEFT cannot load it ({str(err).splitlines()[0][:200]}); see rft smoke-adapter"
        ) from err


class TransformersModel:
    def __init__(self, folder: Path, adapter: Path | None):
        from transformers.utils import logging

        logging.set_verbosity_error()
        self.tokenizer = models.tokenizer(folder)
        model = load(folder)
        self.model = model if adapter is None else with_adapter(model, adapter)

    def answer(self, token_ids, sampling: Sampling, show) -> tuple[list[int], str]:
        return generate(self.model, self.tokenizer, token_ids, sampling, show)

    def close(self) -> None:
        pass


class _Streamer:
    """What `generate` calls with the prompt and then with every token (transformers' `BaseStreamer`).

    Its own TextStreamer waits for a blank; a byte-level vocabulary needs to wait for whole characters only.
    """

    def __init__(self, tokenizer, show: Callable[[str], None]):
        self._tokenizer, self._show = tokenizer, show
        self._held: list[int] | None = None  # None until the prompt has come

    def put(self, ids) -> None:
        if self._held is None:
            self._held = []
            return
        self._held += ids.flatten().tolist()
        text = self._tokenizer.decode(self._held)
        if not text.endswith("\ufffd"):
            self._show(text)
            self._held = []

    def end(self) -> None:
        if self._held:
            self._show(self._tokenizer.decode(self._held))


def generate(model, tokenizer, token_ids: list[int], sampling: Sampling, show) -> tuple[list[int], str]:
    """One answer by transformers' own `generate`, streamed."""
    import torch

    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    hot = sampling.temperature > 0
    options = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if hot else {}
    prompt = torch.tensor([token_ids], device=model.device)
    streamer = _Streamer(tokenizer, show)
    with torch.no_grad():
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            streamer=streamer,
            do_sample=hot,
            max_new_tokens=sampling.max_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **options,
        )
    ids = out[0, len(token_ids) :].tolist()
    stops = model.generation_config.eos_token_id
    ends = stops if isinstance(stops, list) else [stops]
    return ids, "stop" if ids and ids[-1] in ends else "length"


class VllmModel:
    """The engine of the evaluation programs: adapters are served as in training (`rft.evals.vllm_engine`)."""

    def __init__(
        self, folder: Path, adapter: Path | None, max_model_len: int, engine_model: str | None, lora_apply: str
    ):
        from rft.evals import adapters, vllm_engine

        self.tokenizer = models.tokenizer(folder)
        source = models.engine_folder(folder, engine_model)
        found = None if adapter is None else adapters.read(adapter)
        self._loop, self._count = asyncio.new_event_loop(), 0
        start = vllm_engine.start(
            source, found and found.shape, lora_apply, 1, max_model_len, memory=0.9, eager=False, verbose=False
        )
        self.engine = self._loop.run_until_complete(start)
        if found is not None:
            self._loop.run_until_complete(self.engine.serve(found))

    def answer(self, token_ids, sampling: Sampling, show) -> tuple[list[int], str]:
        return self._loop.run_until_complete(self._answer(token_ids, sampling, show))

    async def _answer(self, token_ids, sampling: Sampling, show) -> tuple[list[int], str]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            skip_special_tokens=False,
            output_kind=RequestOutputKind.DELTA,
        )
        self._count += 1
        ids, finish = [], None
        requests = self.engine.llm.generate(TokensPrompt(prompt_token_ids=token_ids), params, f"chat-{self._count}")
        async for output in requests:
            part = output.outputs[0]
            ids += part.token_ids
            finish = part.finish_reason or finish
            show(part.text)
        return ids, finish

    def close(self) -> None:
        self._loop.run_until_complete(self.engine.close())
        self._loop.close()

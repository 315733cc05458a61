"""Bring the trained adapter to the rollout engines, and prove that they hold it.

`LoraSync.push` is called by the patched ``ActorPPOTrainer`` on every ZeRO rank after each training phase, and once
before the first rollout. One gather over all LoRA tensors, one buffer, one ``ray.put``; all engines in parallel. Every
tensor-parallel rank answers with the version and the digest of what its buffers now hold, and the engine with the
result of its prefix-cache reset; any disagreement with what the trainer holds stops the run.
"""

import os
import time

import ray
import torch

from rft import lora_params, lora_payload, metrics_file
from rft.errors import RftError

TIMEOUT_S = 600


class LoraSync:
    """State of the adapter sync of one run; one instance on each ZeRO rank, `version` equal on all.

    engines  Ray actors with an ``apply_lora_update`` method
    """

    def __init__(self, engines: list, lora_rank: int, lora_alpha: float, tp_size: int):
        self.engines, self.lora_rank, self.tp_size = engines, lora_rank, tp_size
        self.scaling = lora_alpha / lora_rank
        self.version = 0
        self.last: dict[str, float] = {}

    def push(self, model) -> dict[str, float]:
        """Collective: sync the engines to `model` (the PEFT model).

        returns  ``sync_s``, ``sync_bytes``, ``sync_version``
        raises   RftError on every rank if any engine rank does not hold exactly this adapter
        """
        start = time.perf_counter()
        rank = torch.distributed.get_rank()
        self.version += 1
        tensors = lora_params.gathered(model, on_this_rank=rank == 0)
        outcome: list = [None]
        if rank == 0:
            try:
                outcome = [self._push_from_rank_0(model, tensors)]
            except Exception as error:  # the other ranks wait for the outcome, whatever it is
                outcome = [f"{type(error).__name__}: {error}"]
        torch.distributed.broadcast_object_list(outcome, src=0)
        if isinstance(outcome[0], str):
            raise RftError(f"adapter sync {self.version}: {outcome[0]}; the engines may serve another policy: stopped")
        self.last = {"sync_s": time.perf_counter() - start, "sync_bytes": outcome[0], "sync_version": self.version}
        return self.last

    def _push_from_rank_0(self, model, tensors: dict[str, torch.Tensor]) -> int:
        start = time.perf_counter()
        named = {lora_params.canonical(name): tensor for name, tensor in tensors.items()}
        geometry = lora_payload.Geometry.of(model.config, self.lora_rank, self.tp_size)
        payload = lora_payload.pack(named, self.version, self.scaling, geometry)
        reference = ray.put(payload)
        answers = ray.get([e.apply_lora_update.remote(reference) for e in self.engines], timeout=TIMEOUT_S)
        found = lora_payload.by_layer(named, geometry)
        wanted = [lora_payload.expected_digest(found, geometry, rank) for rank in range(self.tp_size)]
        for index, answer in enumerate(answers):
            check_certificate(answer, index, self.version, wanted)
        metrics_file.append(
            os.path.join(metrics_file.folder(), "sync_log.jsonl"),
            {
                "time": time.time(),
                "version": self.version,
                "sync_s": time.perf_counter() - start,
                "bytes": len(payload),
                "digest": lora_payload.digest(list(named.values())),
                "engines": answers,
            },
        )
        return len(payload)


def check_certificate(answer: dict, engine: int, version: int, digests: list[str]) -> None:
    """raises RuntimeError unless every rank of an engine holds `version`, with the digest that its shard must have"""
    ranks = sorted(answer["ranks"], key=lambda certificate: certificate["rank"])
    if [c["rank"] for c in ranks] != list(range(len(digests))):
        raise RuntimeError(f"engine {engine}: {len(ranks)} ranks answered, expected {len(digests)}")
    for certificate, wanted in zip(ranks, digests, strict=True):
        where = f"engine {engine} rank {certificate['rank']}"
        if certificate["version"] != version:
            raise RuntimeError(f"{where} serves adapter version {certificate['version']}, the trainer has {version}")
        if certificate["digest"] != wanted:
            raise RuntimeError(f"{where} holds digest {certificate['digest'][:12]}, the trainer has {wanted[:12]}")
    if answer["prefix_cache_reset"] is not True:
        raise RuntimeError(f"engine {engine} did not reset its prefix cache: cached keys are of the old policy")

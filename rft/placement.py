"""Which rank runs on which GPU, and that trainer and engines share none.

`here` runs in every actor rank and every vLLM worker; `record` in the driver, before training starts.
"""

import json
import os
import socket

from rft import metrics_file
from rft.errors import RftError


def here(role: str, rank: int) -> dict:
    """Where this process computes. `device` is a GPU's UUID, Ray's logical number, or None on a plain CPU process."""
    import ray
    import torch

    device = None
    if torch.cuda.is_available():
        device = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    elif ray.is_initialized() and ray.get_gpu_ids():
        device = f"logical {ray.get_gpu_ids()[0]}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    where = {"node": socket.gethostname(), "device": device, "visible": visible, "pid": os.getpid()}
    return {"role": role, "rank": rank, **where}


def shared(places: list[dict]) -> list[tuple]:
    """(node, device) pairs that both an actor and an engine compute on."""
    sides = {
        side: {(p["node"], p["device"]) for p in places if p["device"] and p["role"].startswith(side)}
        for side in ("actor", "engine")
    }
    return sorted(sides["actor"] & sides["engine"])


def record(actor_group, engines: list, colocated: bool) -> list[dict]:
    """Ask every rank, write ``placement.jsonl``; RftError if the two sides share a device and were not told to."""
    import ray

    places = ray.get(actor_group.async_run_method(method_name="placement"))
    for index, answer in enumerate(ray.get([engine.placement.remote() for engine in engines or []])):
        places += [{**place, "role": f"engine {index}"} for place in answer]
    metrics_file.write_all(os.path.join(metrics_file.folder(), "placement.jsonl"), places)
    common = shared(places)
    if common and not colocated:
        raise RftError(
            f"trainer and engine share {json.dumps(common)}; give each side its own GPUs "
            "(--actor_num_gpus_per_node + --vllm_num_engines x --vllm_tensor_parallel_size = the node's GPUs)"
        )
    return places

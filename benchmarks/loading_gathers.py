"""What the placements of `rft.loading.placement` move for one layer, measured between processes over gloo.

`measure` starts the ranks; each times an all-gather of the layer's experts as MXFP4 bytes and as bf16, and the two
all-to-alls that carry tokens to their experts and back. Loopback on one machine: what it says is which moves more and
by what factor, not what NVLink does. Also run as a program by itself, one rank each.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where rft is not installed

REPEATS = 3
TOKENS = (512, 4096)


def measure(ranks: int) -> list[dict]:
    """[{"what", "received_bytes", "seconds"}] of one rank; seconds are medians."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env["WORLD_SIZE"] = str(ranks)
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            env={**env, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        answers = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    failed = [process.returncode for process in processes if process.returncode]
    if failed:
        raise SystemExit(f"error: a rank of {__file__} exited with {failed[0]}")
    return json.loads(answers[0].splitlines()[-1])


def main() -> None:
    import torch
    from torch import distributed as dist

    from rft.loading import placement

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks, found = dist.get_world_size(), []
    # 1/32 of a layer of 120b: 4 of its 128 experts; a token's share of the traffic is that of all
    geometry = placement.Geometry(1, 4, 4, 2880, 2880, 64, 8, 64, 201_088)
    for form in placement.FORMS:
        size = placement.expert_layer_bytes(geometry, form) // ranks
        own, whole = torch.zeros(size, dtype=torch.uint8), torch.empty(size * ranks, dtype=torch.uint8)
        seconds = _timed(lambda own=own, whole=whole: dist.all_gather_into_tensor(whole, own))
        found.append({"what": f"gather, {form}", "received_bytes": size * (ranks - 1), "seconds": seconds})
    for tokens in TOKENS:
        # a rank's tokens that go to each other rank: there and, as outputs, back
        size = placement.expert_parallel_layer_bytes(placement.GPT_OSS_120B, ranks, tokens) // 2 // (ranks - 1)
        out, back = torch.zeros(size * ranks, dtype=torch.uint8), torch.empty(size * ranks, dtype=torch.uint8)

        def there_and_back(out=out, back=back):
            dist.all_to_all_single(back, out)
            dist.all_to_all_single(out, back)

        received = 2 * size * (ranks - 1)
        found.append({"what": f"{tokens:,} tokens", "received_bytes": received, "seconds": _timed(there_and_back)})
    if dist.get_rank() == 0:
        print(json.dumps(found), flush=True)
    dist.barrier()


def _timed(what) -> float:
    from torch import distributed as dist

    seconds = []
    for _ in range(REPEATS + 1):
        dist.barrier()
        start = time.perf_counter()
        what()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])  # the first opens connections


if __name__ == "__main__":
    main()

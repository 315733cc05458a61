"""Memory of one actor rank, at the end of its part of a step.

Called by `rft.train_stats` on every ZeRO rank, which adds up the hosts' and takes the fullest GPU. Bytes. Resident
pages that processes share (torch's libraries) count once a rank; engines and the controller are not in it, the
launcher's ``resources.json`` counts every process of the run.
"""

import os

from torch import accelerator

STATM = "/proc/self/statm"


def host_rss_bytes() -> int:
    """Resident set of this process now."""
    with open(STATM, encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sample() -> dict[str, int]:
    """`host_rss_bytes`; on a GPU also `gpu_allocated_bytes` now and `gpu_peak_bytes` since the last call, of tensors.

    Asking does not synchronise the device: both are counters of torch's allocator.
    """
    figures = {"host_rss_bytes": host_rss_bytes()}
    if accelerator.is_available():
        figures["gpu_allocated_bytes"] = accelerator.memory_allocated()
        figures["gpu_peak_bytes"] = accelerator.max_memory_allocated()
        accelerator.reset_peak_memory_stats()
    return figures

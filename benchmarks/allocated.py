"""The peak of torch's own allocator while a function runs: exact, where a resident set depends on what malloc keeps."""

from collections.abc import Callable


def peak_bytes(function: Callable[[], object], device: str = "cpu") -> int:
    """The most memory that tensors took at a time while `function` ran, above what there was before, temporaries of
    single operators included. On a CPU from the profiler's record of every allocation; the function runs once."""
    import torch

    if device != "cpu":
        torch.accelerator.synchronize()
        before = torch.accelerator.memory_allocated()
        torch.accelerator.reset_peak_memory_stats()
        function()
        torch.accelerator.synchronize()
        return torch.accelerator.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        function()
    level = peak = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak

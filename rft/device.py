"""Accelerator-neutral stand-ins for the ``torch.cuda`` calls of OpenRLHF.

Called from the patched trainer code in every Ray actor. Everything goes through ``deepspeed.accelerator``, so that one
code path serves CUDA and ``DS_ACCELERATOR=cpu``. Devices are *names* ("cuda:0", "cpu"), never indices: ``tensor.to(0)``
fails on a machine without a GPU. On CPU the cache and synchronisation calls do nothing.
"""

from deepspeed.accelerator import get_accelerator


def current_device() -> str:
    """Name of this process's device, e.g. ``"cuda:0"`` or ``"cpu"``."""
    return get_accelerator().current_device_name()


def mesh_device_type() -> str:
    """Device type for ``torch.distributed.device_mesh.init_device_mesh``: ``"cuda"`` or ``"cpu"``."""
    return get_accelerator().device_name()


def set_device(index: int) -> None:
    get_accelerator().set_device(index)


def empty_cache() -> None:
    get_accelerator().empty_cache()


def synchronize() -> None:
    get_accelerator().synchronize()


def pin_memory() -> bool:
    """Whether pinning host memory can help: only where a GPU copies from it."""
    return get_accelerator().device_name() != "cpu"


def orders_collectives() -> bool:
    """Whether waiting for a collective also means that those started before it are done: true on a device's stream.

    gloo runs them on several threads. DeepSpeed's gather of several parameters waits for the last one only.
    """
    return get_accelerator().device_name() != "cpu"

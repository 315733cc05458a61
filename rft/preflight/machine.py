"""Checks of the machine: disks, ports, GPUs, shared memory, limits, Ray's temp space. The launcher's process; no torch.

Floors can be moved where a machine is known to be well: $RFT_MIN_FREE_GB (disks), $RFT_MIN_SHM_GB, $RFT_MIN_NOFILE.
"""

import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

from rft import cluster, inputs
from rft.errors import RftError
from rft.preflight.result import Result, Subject, ok, skipped, warn

SHM = Path("/dev/shm")
RAY_TEMP = Path(cluster.TEMP_PARENT)
# Ray's own line: beyond it no object is created (RAY_local_fs_capacity_threshold).
RAY_DISK_SHARE = 0.95
# Adapters, experiences and NCCL's channels travel through shared memory; a container's default is 0.06 GB.
MIN_SHM_GB_GPU = 8.0
MIN_NOFILE = 4096  # Ray, gloo and vLLM keep a socket to each other; Ray itself asks for 8192
ADVISED_NOFILE = 8192
MIN_NPROC = 4096  # threads count: each of a dozen processes has some tens
GPU_BUSY_MIB = 1024  # a display or a monitoring agent takes less


def outputs(subject: Subject) -> Result:
    inputs.check_outputs(subject.paths)
    return ok(f"{subject.paths.run_dir} and what it points to can be written")


def disk(subject: Subject) -> Result:
    """Room for one checkpoint more than are kept."""
    args = subject.args
    inputs.check_disk(args, subject.repo, subject.paths, subject.env)
    free = inputs.free_bytes(subject.paths.ckpt)
    one = inputs.checkpoint_bytes(args, subject.repo)
    size = f"{args.max_ckpt_num} checkpoints of {one / 1e6:.0f} MB" if one else "size of a checkpoint not known"
    return ok(f"{free / 1e9:.0f} GB free; {size}")


def ports(subject: Subject) -> Result:
    inputs.check_port(subject.env)
    if subject.env.get("RAY_ADDRESS"):
        return skipped(f"joins the cluster at {subject.env['RAY_ADDRESS']}")
    count = len(cluster.free_ports(cluster.PORTS))  # an OSError here is a failure too
    return ok(f"port {subject.env['RFT_RAY_PORT']}" if subject.env.get("RFT_RAY_PORT") else f"{count} free ones found")


def shared_memory(subject: Subject) -> Result:
    """Ray's object store goes to the disk, and NCCL fails, where /dev/shm is a container's default of 64 MB."""
    free = shutil.disk_usage(SHM).free / 1e9
    store = cluster.CPU_OBJECT_STORE_MB * 2**20 / 1e9
    need = float(subject.env.get("RFT_MIN_SHM_GB") or (store if inputs.is_cpu(subject.env) else MIN_SHM_GB_GPU))
    if free < need:
        found = f"{SHM}: {free:.2f} GB free, {need:.2f} GB needed"
        raise RftError(f"{found}; remount it, or give the container a larger --shm-size")
    return ok(f"{free:.1f} GB free, {need:.1f} GB needed")


def limits(subject: Subject) -> Result:
    """Open files and processes that this shell may have."""
    files, processes = (_soft(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    floor = int(subject.env.get("RFT_MIN_NOFILE") or MIN_NOFILE)
    if files < floor:
        raise RftError(f"ulimit -n is {files:.0f}, {floor} open files are needed; run ulimit -n {2 * floor} first")
    if processes < MIN_NPROC:
        raise RftError(f"ulimit -u is {processes:.0f}, {MIN_NPROC} processes are needed; run ulimit -u {2 * MIN_NPROC}")
    found = f"{_count(files)} open files, {_count(processes)} processes"
    if files < ADVISED_NOFILE:
        return warn(f"{found}; Ray advises {ADVISED_NOFILE} open files", f"run ulimit -n {ADVISED_NOFILE}")
    return ok(found)


def _soft(kind: int) -> float:
    soft = resource.getrlimit(kind)[0]
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def _count(limit: float) -> str:
    return "unlimited" if limit == float("inf") else f"{limit:.0f}"


def ray_temp(subject: Subject) -> Result:
    """Ray's sockets, logs and spilled objects go below /tmp, since a socket's path ends at 107 bytes."""
    if subject.env.get("RAY_ADDRESS"):
        return skipped("of the cluster that is joined")
    try:
        with tempfile.TemporaryDirectory(prefix="rft-", dir=RAY_TEMP):
            usage = shutil.disk_usage(RAY_TEMP)
    except OSError as err:
        raise RftError(
            f"{RAY_TEMP}: Ray's temp folder cannot be made there ({err.strerror}); make it writable"
        ) from err
    share = 1 - usage.free / usage.total
    found = f"{RAY_TEMP}: {usage.free / 1e9:.0f} GB free, {share:.0%} full"
    if share > RAY_DISK_SHARE:
        raise RftError(f"{found}, and Ray stores nothing beyond {RAY_DISK_SHARE:.0%}; free space there")
    return ok(found)


def gpus(subject: Subject) -> Result:
    """GPUs there, free, and enough for the recipe's split."""
    args, env = subject.args, subject.env
    if inputs.is_cpu(env):
        return skipped(f"a CPU run: {inputs.gpus_needed(args)} logical ones")
    if env.get("RAY_ADDRESS"):
        return skipped("of the cluster that is joined")
    inputs.check_gpus(args, env)
    needed = inputs.gpus_needed(args)
    split = f"{args.vllm_num_engines or 0} engines x {args.vllm_tensor_parallel_size}, {inputs.actor_ranks(args)} ranks"
    used = _used_mib(env)
    visible = env.get("CUDA_VISIBLE_DEVICES")
    chosen = used if visible is None else {key: used[key] for key in visible.split(",") if key in used}
    busy = {index: mib for index, mib in chosen.items() if mib > GPU_BUSY_MIB}
    if busy and len(chosen) - len(busy) < needed:
        named = ", ".join(f"GPU {index}: {mib} MiB" for index, mib in busy.items())
        raise RftError(
            f"{len(chosen) - len(busy)} of {len(chosen)} GPUs are free, {needed} needed ({split}); in use: {named}; "
            "end what uses them (nvidia-smi), or choose others with CUDA_VISIBLE_DEVICES"
        )
    if busy:
        named = ", ".join(busy)
        return warn(f"{needed} needed ({split}); in use: GPU {named}", "leave those out of CUDA_VISIBLE_DEVICES")
    return ok(f"{len(chosen) or 'enough'} free, {needed} needed: {split}")


def _used_mib(env: dict[str, str]) -> dict[str, int]:
    """Memory in use by GPU index, {} where nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=index,memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False, env={**os.environ, **env}
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = [line.split(",") for line in done.stdout.splitlines() if line.count(",") == 1]
    return {index.strip(): int(mib) for index, mib in rows if mib.strip().isdigit()}

"""From safetensors straight to the model that trains: one parameter at a time, each rank its own slice.

`load_model` builds the model without weights, then fills parameter after parameter from the shards' byte ranges. Under
ZeRO-3 (`ds_config` of stage 3) a rank reads, dequantises and keeps its slice only: all ranks together hold one copy on
their devices, and the host nothing but buffers unless the copy is offloaded to it. Otherwise the model is whole on
`device`. Experts come dequantised (bf16, exact) or stay MXFP4 bytes (``resident``: then nothing is computed at all).
Called by the patched ``Actor`` on every rank, main thread. Hub ids are fetched to the hub's cache first.
"""

import torch
from torch import nn

from rft.errors import RftError
from rft.loading import digests
from rft.loading.bar import loading_bar
from rft.loading.shards import Checkpoint
from rft.loading.skeleton import empty_model
from rft.loading.sources import Tick, source_of


def streams(experts: str, stream_load: bool, **unknown_here: bool) -> bool:
    """Whether the actor's flags ask for the streamed loader; without, every rank loads the whole, as upstream does.

    unknown_here  the flags that upstream's loading alone knows, by name: RftError if one of them is set too
    """
    if not stream_load and experts == "dequantised":
        return False
    for flag, is_set in unknown_here.items():
        if is_set:
            raise RftError(f"--{flag}: not with --stream_load or --experts resident; leave one of them out")
    return True


def load_model(
    pretrain: str,
    attn_implementation: str,
    experts: str = "dequantised",
    dtype: torch.dtype = torch.bfloat16,
    ds_config: dict | None = None,
    device: str | torch.device | None = None,
    check_digests: bool = True,
    quiet: bool = False,
) -> nn.Module:
    """Collective where a process group is up: the gpt-oss of folder or hub id `pretrain`, in evaluation mode.

    ds_config  what the strategy will give `deepspeed.initialize`; stage 3 gives a partitioned model
    device     of an unpartitioned model; default: the accelerator's with a ds_config, else the CPU
    raises     RftError on every rank if any rank fails: damaged or missing shard, wrong digest, another architecture
    """
    model, error = None, None
    try:
        model = _load(pretrain, attn_implementation, experts, dtype, ds_config, device, check_digests, quiet)
    except Exception as caught:  # the others wait in the collective below and must hear of it
        error = caught
    _agree(pretrain, error)
    return model


def _load(pretrain, attn_implementation, experts, dtype, ds_config, device, check_digests, quiet) -> nn.Module:
    from rft.evals.models import locate
    from rft.model_load import checkpoint_config, is_mxfp4, load_options

    load_options(pretrain, attn_implementation)  # its refusals hold here too: no attention without sinks
    config = checkpoint_config(pretrain)
    if experts == "resident" and not is_mxfp4(config):
        raise RftError(f"--experts resident: {pretrain} is no MXFP4 checkpoint; give one, or --experts dequantised")
    folder = locate(pretrain, "--pretrain")
    rank, ranks = _world()
    checkpoint = Checkpoint(folder)
    if check_digests:
        digests.check(folder, checkpoint.shards, rank, ranks)
    model = empty_model(config, attn_implementation, dtype, experts)
    home = _home(ds_config, device)
    fill(model, checkpoint, home, shown=rank == 0 and not quiet)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(home.device)
    return model


class Whole:
    """The home of parameters that are not partitioned: `device` holds all of each."""

    def __init__(self, device: str | torch.device):
        self.device = torch.device(device)

    def slice_numel(self, parameter: torch.Tensor) -> int:
        return parameter.numel()

    def place(self, parameter: torch.Tensor, source, tick: Tick) -> nn.Parameter:
        """A parameter of the shape, dtype and requires_grad of `parameter` (which may be on meta)."""
        data = torch.empty(parameter.shape, dtype=parameter.dtype, device=self.device)
        source.fill(data.view(-1), 0, tick)
        return nn.Parameter(data, requires_grad=parameter.requires_grad)


def fill(model: nn.Module, checkpoint: Checkpoint, home, shown: bool = False) -> None:
    """Replace every parameter of `model` by one that `home` (`Whole`, `Partition`) makes of the checkpoint's values.

    Shapes and dtypes of all parameters are checked before the first is read; a tied one is read once.
    raises  RftError naming shard and tensor
    """
    sources = {name: source_of(checkpoint, name, parameter) for name, parameter in model.named_parameters()}
    total = sum(home.slice_numel(p) * p.element_size() for p in model.parameters())
    made: dict[nn.Parameter, nn.Parameter] = {}
    with loading_bar(str(checkpoint.folder), total, shown) as tick:
        for name, parameter in list(model.named_parameters(remove_duplicate=False)):
            if parameter not in made:
                made[parameter] = home.place(parameter, sources[name], tick)
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner)._parameters[leaf] = made[parameter]


def _home(ds_config: dict | None, device):
    if ds_config is not None and ds_config["zero_optimization"]["stage"] == 3:
        from rft.loading.partition import Partition, gather_each_dtype

        gather_each_dtype()
        return Partition(ds_config)
    if device is None and ds_config is not None:
        from rft.device import current_device

        device = current_device()
    return Whole(device or "cpu")


def _world() -> tuple[int, int]:
    """(rank, ranks) of the process group, (0, 1) without one."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _agree(pretrain: str, error: Exception | None) -> None:
    """Collective: all ranks go on, or all raise."""
    rank, ranks = _world()
    if ranks > 1:
        messages: list[str | None] = [None] * ranks
        torch.distributed.all_gather_object(messages, None if error is None else f"{type(error).__name__}: {error}")
        failed = [(who, message) for who, message in enumerate(messages) if message and who != rank]
        if error is None and failed:
            who, message = failed[0]
            raise RftError(f"--pretrain {pretrain}: rank {who} could not load it ({message})")
    if error is not None:
        raise error

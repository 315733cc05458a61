"""Parameters born as ZeRO-3 slices: each rank fills its own part, no rank ever holds a whole parameter.

DeepSpeed's own ways build a parameter whole on every rank's device, broadcast it from rank 0 and cut it. Here the
parameter gets DeepSpeed's attributes through `zero.Init` and its slice straight from the checkpoint; nothing is sent.
`deepspeed.initialize` then finds a partitioned model, neither moves nor broadcasts it, and partitions what came later
(LoRA) as always. uint8 parameters (MXFP4 blocks and scales) are cut by bytes: `module.bfloat16()` passes them over, and
gathers move a byte for a byte. Main thread of every ZeRO rank, the same parameters in the same order.
Source: DeepSpeed 0.18.5, runtime/zero/partition_parameters.py (`Init._convert_to_deepspeed_param`, `_partition_param`).
"""

import torch
from torch import nn

from rft.errors import RftError
from rft.loading.sources import Tick


class Partition:
    """Cuts parameters as DeepSpeed's stage 3 would under `ds_config`.

    raises  RftError for a configuration whose partitions are not these: hierarchical ones, or tensor parallelism
    """

    def __init__(self, ds_config: dict):
        from deepspeed.runtime.zero.partition_parameters import Init

        if ds_config["zero_optimization"].get("zero_hpz_partition_size", 1) not in (1, "auto"):
            raise RftError(
                f"--zpg {ds_config['zero_optimization']['zero_hpz_partition_size']}: streamed loading makes no second "
                "partition; leave --zpg out"
            )
        if ds_config.get("tensor_parallel", {}).get("autotp_size", 1) > 1:
            raise RftError("--ds_tensor_parallel_size: cuts whole weights, streamed loading has none; leave it out")
        # DeepSpeed starts with no process group of ours; this makes the world's if there is none
        self._init = Init(config_dict_or_path=ds_config)
        self.ranks, self.rank = self._init.num_partitions, self._init.get_partition_rank()

    @property
    def device(self) -> torch.device:
        """Where whole parameters are gathered to, and where buffers belong."""
        return self._init.local_device

    def slice_numel(self, parameter: torch.Tensor) -> int:
        return -(-parameter.numel() // self.ranks)

    def place(self, parameter: torch.Tensor, source, tick: Tick) -> nn.Parameter:
        """A partitioned parameter of the shape, dtype and requires_grad of `parameter` (which may be on meta)."""
        from deepspeed.runtime.zero.partition_parameters import PartitionedParamStatus, free_param

        # one element in the shape of all: DeepSpeed reads shape and count off a parameter that is never whole
        shaped = torch.empty(1, dtype=parameter.dtype, device=self.device).expand(parameter.shape)
        cut = nn.Parameter(shaped, requires_grad=parameter.requires_grad)
        self._init._convert_to_deepspeed_param(cut)
        size = self.slice_numel(parameter)
        own = self._empty(size, parameter.dtype, self.device if cut.ds_persist else self._init.remote_device)
        count = min(max(parameter.numel() - self.rank * size, 0), size)
        source.fill(own[:count], self.rank * size, tick)
        own[count:].zero_()  # padding of the last ranks
        own.ds_numel, own.status, own.final_location = size, PartitionedParamStatus.AVAILABLE, None
        cut.ds_tensor, cut.ds_numel_aligned = own, size * self.ranks
        free_param(cut)
        return cut

    def _empty(self, size: int, dtype: torch.dtype, device) -> torch.Tensor:
        own = torch.empty(size, dtype=dtype, device=device)
        if own.device.type == "cpu" and self._init.pin_memory:
            from deepspeed.accelerator import get_accelerator

            own = get_accelerator().pin_memory(own)
        return own


def gather_each_dtype() -> None:
    """Let DeepSpeed gather parameters of several dtypes in one call; once on every rank, before the first gather.

    ``Init._allgather_params_coalesced`` (0.18.5) allocates all of a call's parameters in the dtype of the first, so
    that uint8 blocks beside a bf16 bias come out as garbage or not at all.
    """
    from deepspeed.runtime.zero.partition_parameters import Init

    gather = Init._allgather_params_coalesced
    if getattr(gather, "each_dtype", False):
        return

    def one_dtype_at_a_time(self, param_list, *args, **options):
        for dtype in sorted({parameter.ds_tensor.dtype for parameter in param_list}, key=str):  # alike on every rank
            gather(self, [p for p in param_list if p.ds_tensor.dtype == dtype], *args, **options)

    one_dtype_at_a_time.each_dtype = True
    Init._allgather_params_coalesced = one_dtype_at_a_time

"""gpt-oss experts whose weights are the checkpoint's own uint8 blocks and scales.

`ResidentExperts` stands in for transformers' ``GptOssExperts`` (4.57.6): same call, same result up to rounding, in
train and in eval mode alike and on every device. Its tensors have the checkpoint's names and shapes; all are frozen
parameters (blocks and scales uint8, biases floating), so ``model.to(bfloat16)`` leaves the weights as they are and
DeepSpeed may partition them. Arithmetic runs in the dtype of the hidden states: products in it, the activation in
float32 (float64 for float64), the weighted sum rounded once.

Called by the actor with ``--experts resident``, in the training process of every rank; see docs/resident.md.
"""

import torch
from torch import nn

from rft import mxfp4
from rft.errors import RftError
from rft.resident import lora_factors, products, routing, swiglu

PROJECTIONS = ("gate_up_proj", "down_proj")


class ResidentExperts(nn.Module):
    """E experts, K of them a token; parameters as in the checkpoint's ``model.layers.N.mlp.experts``.

    gate_up_proj_blocks (E, 2I, H/32, 16) uint8, gate_up_proj_scales (E, 2I, H/32) uint8, gate_up_proj_bias (E, 2I)
    down_proj_blocks    (E, H, I/32, 16) uint8,  down_proj_scales    (E, H, I/32) uint8,  down_proj_bias    (E, H)

    config  ``GptOssConfig`` (num_local_experts, hidden_size, intermediate_size)
    device  of the empty tensors that it makes; "meta" for shapes alone
    dtype   of the biases
    raises  RftError if 32 does not divide H or I
    """

    def __init__(self, config, device=None, dtype: torch.dtype = torch.bfloat16):
        super().__init__()
        self.num_experts = config.num_local_experts
        self.hidden_size = config.hidden_size
        self.intermediate_size = self.expert_dim = config.intermediate_size
        self.alpha = 1.702
        self.limit = float(getattr(config, "swiglu_limit", 7.0))
        for name, size in (("hidden_size", self.hidden_size), ("intermediate_size", self.intermediate_size)):
            if size % mxfp4.BLOCK:
                raise RftError(
                    f"config.json: {name} {size} is no multiple of {mxfp4.BLOCK}, as MXFP4 needs; "
                    "use --experts dequantised"
                )
        shapes = {
            "gate_up_proj": (2 * self.intermediate_size, self.hidden_size),
            "down_proj": (self.hidden_size, self.intermediate_size),
        }
        for name, (out_size, in_size) in shapes.items():
            groups = in_size // mxfp4.BLOCK
            byte_shapes = {
                f"{name}_blocks": (self.num_experts, out_size, groups, mxfp4.BLOCK // 2),
                f"{name}_scales": (self.num_experts, out_size, groups),
            }
            for key, shape in byte_shapes.items():
                self.register_parameter(key, _frozen(torch.empty(shape, dtype=torch.uint8, device=device)))
            bias = torch.empty(self.num_experts, out_size, dtype=dtype, device=device)
            self.register_parameter(f"{name}_bias", _frozen(bias))
        self.backend: str | None = None  # None: products.choose(); or one of products.BACKENDS
        self.adapters: dict[str, list[lora_factors.Factors]] = {}  # what `rft.resident.lora` adds, for one call

    def forward(self, hidden_states, router_indices=None, routing_weights=None) -> torch.Tensor:
        """Weighted sum of each token's experts.

        hidden_states    (B, L, H) floating; any strides
        router_indices   (T, K) int64 in [0, E), T = B*L, the K of a token all different
        routing_weights  (T, E) floating; only the K of `router_indices` count
        returns          (B, L, H) in the dtype of hidden_states; gradients for hidden_states and routing_weights
        """
        x = hidden_states.reshape(-1, self.hidden_size)  # (T, H)
        top_weights = routing_weights.gather(1, router_indices).to(x.dtype)  # (T, K)
        backend = self.backend or products.choose(x)
        route = routing.Route.of(router_indices, self.num_experts, products.host_offsets_needed(self, backend))

        # Nothing is bound to a name for longer than it is needed: without a gradient each step's rows go with the next.
        gate_up = self._project("gate_up_proj", routing.dispatch(x, route), route, backend)  # (S, 2I), without its bias
        hidden = swiglu.swiglu(gate_up, self.gate_up_proj_bias, route.expert_of_row, self.alpha, self.limit)  # (S, I)
        del gate_up
        out = self._project("down_proj", hidden, route, backend)  # (S, H), without its bias
        del hidden
        return routing.collect(out, top_weights, self.down_proj_bias, route).view(hidden_states.shape)

    def _project(self, name: str, rows: torch.Tensor, route: routing.Route, backend: str) -> torch.Tensor:
        """rows (S, in) times each row's expert's weight -> (S, out); adapters added, the bias not."""
        blocks, scales = getattr(self, f"{name}_blocks"), getattr(self, f"{name}_scales")
        out = products.frozen_product(rows, blocks, scales, route, backend)
        for factors in self.adapters.get(name, ()):
            out = out + lora_factors.product(rows, factors, route, backend)
        return out

    def extra_repr(self) -> str:
        return (
            f"experts={self.num_experts}, hidden={self.hidden_size}, intermediate={self.intermediate_size}, "
            f"backend={self.backend or 'auto'}"
        )

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over the checkpoint's six tensors (`experts.` names without their prefix) without a copy.

        raises  RftError for a missing tensor, a wrong shape or dtype, or a NaN scale; nothing is changed then
        """
        found = {}
        for name, parameter in self.named_parameters(recurse=False):
            if name not in tensors:
                raise RftError(f"experts.{name} is missing from the checkpoint; fetch it again")
            tensor = tensors[name]
            if tensor.shape != parameter.shape or (parameter.dtype == torch.uint8) != (tensor.dtype == torch.uint8):
                raise RftError(
                    f"experts.{name} is {tensor.dtype} {tuple(tensor.shape)}, not {parameter.dtype} "
                    f"{tuple(parameter.shape)}; the checkpoint does not belong to this config.json"
                )
            found[name] = tensor.to(parameter.dtype)
        for name in PROJECTIONS:
            mxfp4.check(found[f"{name}_blocks"], found[f"{name}_scales"])
        for name, tensor in found.items():
            setattr(self, name, _frozen(tensor))

    @classmethod
    @torch.no_grad()
    def from_experts(cls, experts: nn.Module, config) -> "ResidentExperts":
        """transformers' ``GptOssExperts`` that hold MXFP4 values, as resident experts with the same values.

        raises  RftError if a weight is not exactly representable (never trained or merged into: no such weight)
        """
        made = cls(config, device="meta", dtype=experts.down_proj_bias.dtype)
        made.train(experts.training)
        if experts.gate_up_proj.device.type == "meta":
            return made
        tensors = {f"{name}_bias": getattr(experts, f"{name}_bias").detach() for name in PROJECTIONS}
        for name in PROJECTIONS:
            weight = getattr(experts, name).detach()
            blocks, scales = mxfp4.quantise_expert(weight)
            if not torch.equal(mxfp4.dequantise_expert(blocks, scales, weight.dtype), weight):
                raise RftError(
                    f"experts.{name} holds values that MXFP4 cannot: it was trained or merged into; "
                    "use --experts dequantised"
                )
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales
        made.load_tensors(tensors)
        return made


def replace_experts(model: nn.Module) -> int:
    """Put `ResidentExperts` in the place of every ``GptOssExperts`` of `model`, in place, module by module.

    On the meta device only shapes are made (`load_tensors` fills them); elsewhere the weights are packed again, which
    is exact for weights that came from MXFP4. Peak memory: one layer's quantisation.

    returns  how many modules were replaced
    raises   RftError if there was none, or a weight is not exactly representable
    """
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "GptOssExperts":
                setattr(parent, name, ResidentExperts.from_experts(child, model.config))
                replaced += 1
    if not replaced:
        raise RftError(f"{type(model).__name__} has no gpt-oss experts; --experts resident is for gpt-oss checkpoints")
    return replaced


def _frozen(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)

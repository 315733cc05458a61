"""PEFT adapters on resident experts, in the files' form that PEFT gives adapters on transformers' own experts.

PEFT adapts expert tensors by ``target_parameters``: a `ParamWrapper` adds the dense product of its factors to a
floating parameter, which resident experts do not have. `ParamWrapper` of this module hands the two factors to
`ResidentExperts` instead, which multiplies rows by them. Names, shapes and nesting of the factors are PEFT's for
``mlp.experts.gate_up_proj`` and ``mlp.experts.down_proj``, so an adapter goes from one form to the other unchanged.

Called where the actor makes its PEFT model (``--allow_expert_lora`` with ``--experts resident``).
Source: PEFT 0.21.2, ``tuners/lora/layer.py`` (ParamWrapper).
"""

from peft import LoraConfig
from peft.tuners.lora import layer as peft_layer

from rft.errors import RftError
from rft.resident.experts import PROJECTIONS, ResidentExperts
from rft.resident.lora_factors import Factors

# In the checkpoint's form a projection's weight is the parameter `<projection>_blocks`: that is what PEFT can find.
_SUFFIX = "_blocks"


def target_experts(config: LoraConfig, resident: bool) -> LoraConfig:
    """`config` with LoRA on both expert projections of every layer added, in place.

    resident  whether the model has `ResidentExperts` (else transformers' own)
    """
    suffix = _SUFFIX if resident else ""
    wanted = [f"mlp.experts.{name}{suffix}" for name in PROJECTIONS]
    config.target_parameters = [*(config.target_parameters or []), *wanted]
    if resident:
        config._register_custom_module({ResidentExperts: ParamWrapper})
    return config


def saved_config(config: LoraConfig) -> LoraConfig:
    """What adapter_config.json should say of `config`, in place: the expert tensors under their own names."""
    if config.target_parameters:
        config.target_parameters = [name.removesuffix(_SUFFIX) for name in config.target_parameters]
    return config


class ParamWrapper(peft_layer.ParamWrapper):
    """LoRA on one projection of `ResidentExperts`: lora_A, lora_B as PEFT has them for the (E, in, out) tensor.

    PEFT knows that it may nest one wrapper in another by the class's name, so this one bears the same.
    """

    def __init__(self, base_layer, adapter_name: str, parameter_name: str | None = None, **kwargs):
        if parameter_name is None or parameter_name.removesuffix(_SUFFIX) not in PROJECTIONS:
            raise RftError(
                f"LoRA cannot target {parameter_name or 'a whole module'} of resident experts; "
                f"use target_parameters {[f'mlp.experts.{name}{_SUFFIX}' for name in PROJECTIONS]}"
            )
        super().__init__(base_layer, adapter_name, parameter_name=parameter_name, **kwargs)

    @property
    def projection(self) -> str:
        return self.parameter_name.removesuffix(_SUFFIX)

    def _get_in_out_features(self, module) -> tuple[int, int]:
        experts = self.get_base_layer()
        self.num_experts = experts.num_experts
        self._param_ndim = 3
        if self.projection == "gate_up_proj":
            return experts.hidden_size, 2 * experts.intermediate_size
        return experts.intermediate_size, experts.hidden_size

    def get_delta_factors(self, adapter_name: str) -> Factors:
        """(lhs (E, in, r), rhs (E, r, out), scaling), in the factors' own dtype."""
        a, b = self.lora_A[adapter_name].weight, self.lora_B[adapter_name].weight
        a = a.reshape(self.num_experts, -1, a.shape[-1])  # (E, r, .)
        b = b.reshape(b.shape[0], -1, self.num_experts).permute(2, 0, 1)  # (E, ., r)
        if self._did_swap_in_out_features:
            return Factors(b, a, self.scaling[adapter_name])
        return Factors(a.transpose(1, 2), b.transpose(1, 2), self.scaling[adapter_name])

    def get_delta_weight(self, adapter_name: str, *args, **kwargs):
        """The dense change (E, in, out), for tests and exports."""
        lhs, rhs, scaling = self.get_delta_factors(adapter_name)
        return lhs @ rhs * scaling

    def forward(self, x, *args, **kwargs):
        self._check_forward_args(x, *args, **kwargs)
        active = [] if self.disable_adapters else [a for a in self.active_adapters if a in self.lora_A]
        adapters = self.get_base_layer().adapters
        adapters[self.projection] = [self.get_delta_factors(name) for name in active]
        try:
            return self.base_layer(x, *args, **kwargs)
        finally:
            del adapters[self.projection]

    def merge(self, *args, **kwargs):
        raise RftError("an adapter cannot be merged into resident experts; merge it into the checkpoint: rft export")

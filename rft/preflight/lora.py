"""LoRA's targets on the model itself, built without weights: they exist, and they are attention projections.

In a process of its own. The engines take adapters of attention projections only (rft/lora_layout.py); experts are
refused unless `--allow_expert_lora` says that they are meant, and with it wherever engines would sample without them.
"""

from rft.errors import RftError
from rft.preflight.result import Result, Subject, ok, skipped
from rft.preflight.tokens import local

ATTENTION = "self_attn."


def targets(subject: Subject) -> Result:
    args = subject.args
    if args.lora_rank <= 0:
        return skipped("no LoRA")
    if args.allow_expert_lora and args.vllm_num_engines:
        raise RftError(
            "--allow_expert_lora: engines take adapters of attention projections only and would sample another policy; "
            "leave it out, or train without engines (--vllm_num_engines 0)"
        )
    named = [args.target_modules] if isinstance(args.target_modules, str) else list(args.target_modules)
    modules, linear, parameters = _names(local(subject, args.pretrain))
    found: list[str] = []
    for name in named:
        chosen = linear if name == "all-linear" else _matching(name, modules)
        if not chosen and not (args.allow_expert_lora and _matching(name, parameters)):
            known = ", ".join(sorted({one.rpartition(".")[2] for one in linear}))
            raise RftError(f"--target_modules {name}: no such module in {args.pretrain}; it has {known}")
        found += chosen
    others = sorted({one.rpartition(".")[2] for one in found if ATTENTION not in one})
    if others and not args.allow_expert_lora:
        remedy = "name q_proj k_proj v_proj o_proj, or add --allow_expert_lora"
        raise RftError(
            f"--target_modules {' '.join(named)}: reaches {', '.join(others)} beyond the attention; {remedy}"
        )
    return ok(f"{len(found)} modules: {', '.join(named)}, r {args.lora_rank}, alpha {args.lora_alpha}")


def _matching(name: str, modules: list[str]) -> list[str]:
    """As PEFT matches a name of a list: the whole of it, or behind a dot."""
    return [one for one in modules if one == name or one.endswith(f".{name}")]


def _names(pretrain: str) -> tuple[list[str], list[str], list[str]]:
    """(all modules, what PEFT calls all-linear, expert parameters) of the model; no weight is read or made."""
    import torch
    from transformers import AutoModelForCausalLM

    from rft.model_load import checkpoint_config

    config = checkpoint_config(pretrain)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    except (ValueError, KeyError, AttributeError, ImportError) as err:
        why = " ".join(str(err).split())[:160]
        raise RftError(f"--pretrain {pretrain}: no causal language model can be built of it ({why}); mend it") from err
    head = model.get_output_embeddings()
    modules = [name for name, _ in model.named_modules() if name]
    linear = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and one is not head]
    return modules, linear, [name for name, _ in model.named_parameters() if ".experts." in name]

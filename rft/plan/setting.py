"""What is planned: a recipe's resolved flags, and the few figures of the machine that no flag holds.

The recipes' numbers stay in the launchers: `recipe_flags` asks one for its command (``--dry-run``), upstream's own
parser reads it (`rft.upstream_cli`), and `of_args` takes from it what memory and time depend on. Reads only.
"""

import subprocess
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

from rft import inputs, reference, upstream_cli
from rft.errors import RftError
from rft.plan.activations import Shape
from rft.plan.geometry import Geometry, find
from rft.runs import REPO

RECIPES = {"20b": "train_grpo_20b.sh", "120b": "train_grpo.sh"}
MODULE_TOKEN = upstream_cli.MODULE


@dataclass(frozen=True)
class Setting:
    """Lengths in tokens; batches in answers; gpu_bytes and host_bytes: of one GPU, and of the node (None: unknown)."""

    geometry: Geometry
    ranks: int
    engines: int
    tensor_parallel: int
    prompt_tok: int
    answer_tok: int
    prompts: int
    samples: int
    train_batch: int
    micro_train: int
    micro_rollout: int
    lora_rank: int
    targets: tuple[str, ...]
    utilisation: float
    gpu_bytes: int
    host_bytes: int | None = None
    zero_stage: int = 3
    offload: bool = False
    adam_offload: bool = False
    checkpointing: bool = True
    attention: str = "eager"
    experts: str = "dequantised"
    streamed: bool = False
    logprob_chunk_tok: int = 0
    enforce_eager: bool = False
    colocated: bool = False
    sleeps: bool = False
    reference_passes: bool = False
    separate_reference: bool = False
    max_ckpt_num: int = 3
    merged_lora: bool = False
    cpu: bool = False

    @property
    def tokens(self) -> int:
        """Longest sequence: what one row is padded to."""
        return self.prompt_tok + self.answer_tok

    @property
    def answers(self) -> int:
        return self.prompts * self.samples

    @property
    def partitioned(self) -> bool:
        """Does ZeRO-3 cut the weights into slices?"""
        return self.zero_stage == 3 and self.ranks > 1

    @property
    def adapter_parameters(self) -> int:
        return self.geometry.targeted_parameters(self.lora_rank, self.targets)

    @property
    def model_bytes(self) -> int:
        """The actor's base weights, all of them."""
        return self.geometry.model_bytes(self.experts)

    def shape(self, rows: int) -> Shape:
        return Shape(
            rows=rows,
            tokens=self.tokens,
            lora_rank=self.lora_rank,
            checkpointing=self.checkpointing,
            attention={"eager": "eager", "sinks_tiled": "tiled"}.get(self.attention, "flex"),
            experts=self.experts,
            logprobs="chunked" if self.logprob_chunk_tok else "full",
            chunk=self.logprob_chunk_tok or self.tokens,
            gpu=not self.cpu,
        )

    def changed(self, **fields) -> "Setting":
        return replace(self, **fields)


def recipe_flags(recipe: str, flags: list[str], env: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """A launcher's resolved flags of train_ppo_ray with `flags` behind the recipe's own, and its variables.

    raises RftError with the launcher's own message where it refuses them
    """
    path = REPO / recipe
    if not path.is_file():
        raise RftError(f"--recipe {recipe}: no such launcher in {REPO}; use one of {', '.join(RECIPES.values())}")
    command = ["bash", str(path), "--dry-run", *flags]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
        raise RftError(f"{recipe} --dry-run refused the flags: {last}")
    lines = done.stdout.splitlines()
    if MODULE_TOKEN not in lines:
        raise RftError(f"{recipe} --dry-run printed no command of {MODULE_TOKEN}; run bash setup.sh")
    at = lines.index(MODULE_TOKEN)
    variables = dict(line.split("=", 1) for line in lines[:at] if "=" in line)
    return lines[at + 1 :], variables


def of_args(args: Namespace, geometry: Geometry, gpu_bytes: int, **machine) -> Setting:
    """From upstream's parsed flags; machine: further fields of Setting that no flag holds."""
    shares = reference.shares_actor(args)
    experts = getattr(args, "experts", None) or "dequantised"
    return Setting(
        geometry=geometry,
        ranks=inputs.actor_ranks(args),
        engines=args.vllm_num_engines or 0,
        tensor_parallel=args.vllm_tensor_parallel_size,
        prompt_tok=args.prompt_max_len,
        answer_tok=args.generate_max_len,
        prompts=args.rollout_batch_size,
        samples=args.n_samples_per_prompt,
        train_batch=args.train_batch_size,
        micro_train=args.micro_train_batch_size,
        micro_rollout=args.micro_rollout_batch_size,
        lora_rank=args.lora_rank,
        targets=tuple(args.target_modules or ()),
        utilisation=args.vllm_gpu_memory_utilization,
        gpu_bytes=gpu_bytes,
        zero_stage=args.zero_stage,
        offload=getattr(args, "offload", False),
        adam_offload=args.adam_offload,
        checkpointing=args.gradient_checkpointing,
        attention=args.attn_implementation,
        experts=experts,
        streamed=getattr(args, "stream_load", False) or experts == "resident",
        logprob_chunk_tok=getattr(args, "logprob_chunk_tok", 0) or 0,
        enforce_eager=args.enforce_eager,
        colocated=args.colocate_all_models,
        sleeps=args.vllm_enable_sleep,
        reference_passes=args.init_kl_coef > 0,
        separate_reference=args.init_kl_coef > 0 and not shares,
        max_ckpt_num=args.max_ckpt_num,
        merged_lora=getattr(args, "lora_apply", "sidepath") == "merge",
    ).changed(**machine)


def read(model: str, recipe: str | None, flags: list[str], env: dict[str, str], gpu_bytes: int, **machine) -> Setting:
    """The setting of a model under a recipe (default: the model's own), with `flags` behind the recipe's.

    model  20b, 120b, a hub id or a checkpoint folder
    """
    geometry = find(model, REPO)
    size = geometry.name.removeprefix("gpt-oss-")
    recipe = recipe or RECIPES.get(size, RECIPES["20b"])
    path = Path(model)
    pretrain = model if (REPO / path).is_dir() else f"openai/{geometry.name}"
    resolved, variables = recipe_flags(recipe, ["--pretrain", pretrain, *flags], env)
    machine.setdefault("cpu", variables.get("DS_ACCELERATOR") == "cpu")
    return of_args(upstream_cli.parse(resolved), geometry, gpu_bytes, **machine)

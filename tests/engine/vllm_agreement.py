"""The tiny model in vLLM: greedy against transformers, seeds twice. Usage: vllm_agreement.py TINY_DIR REPORT."""

import json
import os
import sys
from pathlib import Path

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
}


def main(folder: Path, report: Path) -> None:
    os.environ.update(ENVIRONMENT)
    import torch
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams

    from rft import rollout_seed
    from rft.tiny.model import load_checkpoint
    from rft.tiny.warmstart import prompt_text

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    questions = [json.loads(line)["input"] for line in (folder / "heldout.jsonl").read_text().splitlines()[:64]]
    prompts = tokenizer([prompt_text(tokenizer, q) for q in questions], add_special_tokens=False)["input_ids"]
    model = load_checkpoint(folder / "model").eval()
    with torch.no_grad():
        ours = model.generate(
            torch.tensor(prompts), do_sample=False, max_new_tokens=24, pad_token_id=tokenizer.pad_token_id
        ).tolist()
    options = {"dtype": "bfloat16", "enforce_eager": True, "max_model_len": 128, "disable_log_stats": True}
    engine = LLM(str(folder / "model-bf16"), **options, **rollout_seed.engine_options())
    outputs = engine.generate(
        [{"prompt_token_ids": ids} for ids in prompts],
        SamplingParams(temperature=0, max_tokens=24, logprobs=1),
        use_tqdm=False,
    )
    same, gaps = 0, []
    for prompt, expected, output in zip(prompts, ours, outputs, strict=True):
        answer = list(output.outputs[0].token_ids)
        same += expected[len(prompt) : len(prompt) + len(answer)] == answer
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
        expected_logp = logits.log_softmax(-1)
        for position, (token, logps) in enumerate(zip(answer, output.outputs[0].logprobs, strict=True)):
            gaps.append(abs(logps[token].logprob - expected_logp[position, token].item()))
    # more prompt tokens at once than a batch takes: a seeded request whose prompt was split would kill a CPU engine
    many = [{"prompt_token_ids": ids} for ids in (prompts * 4)[:256]]
    sampling = [SamplingParams(temperature=1, max_tokens=24, seed=rollout_seed.derive(7, i)) for i in range(len(many))]
    twice = [[tuple(o.outputs[0].token_ids) for o in engine.generate(many, sampling, use_tqdm=False)] for _ in range(2)]
    figures = {"prompts": len(prompts), "same_greedy": same, "mean_abs_dlogp": sum(gaps) / len(gaps), "max": max(gaps)}
    figures["seeded"] = {"responses": len(many), "same_twice": sum(a == b for a, b in zip(*twice, strict=True))}
    figures["seeded"]["distinct"] = len(set(twice[0]))
    report.write_text(json.dumps(figures))
    print(figures)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

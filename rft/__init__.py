"""rft: trustworthy GRPO fine-tuning of gpt-oss on OpenRLHF, DeepSpeed and vLLM."""

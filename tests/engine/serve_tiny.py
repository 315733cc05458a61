"""`vllm serve` for the tiny gpt-oss on a CPU. Usage: STOP_TOKEN_IDS=… serve_tiny.py serve MODEL …

Two things of vLLM 0.15.1 are replaced before its command line is called as it is. For every gpt-oss it takes the stop
tokens of its chat endpoints from openai_harmony, which downloads its vocabulary; the tiny model has one of its own. And
with --enable-lora it wraps the experts too, for which it has Triton kernels only: here they are left out, so that the
attention of an adapter can be served. At module level, since vLLM's engine process imports this file again.
"""

import os
import sys

from vllm.entrypoints.openai.parser import harmony_utils
from vllm.lora.model_manager import LoRAModelManager

STOPS = [int(word) for word in os.environ["STOP_TOKEN_IDS"].split(",")]
harmony_utils.get_stop_tokens_for_assistant_actions = lambda: list(STOPS)
_match = LoRAModelManager._match_target_modules
LoRAModelManager._match_target_modules = lambda self, name: not name.endswith(".experts") and _match(self, name)

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    sys.argv[0] = "vllm"
    sys.exit(main())

#!/usr/bin/env python3
"""The base against trained adapters on the same problems and seeds. See --help; the logic is in rft/evals/."""

import sys

from rft.evals.rl_cli import main

if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Any model, or several, on any set and mode. See --help; the logic is in rft/evals/."""

import sys

from rft.evals.baseline_cli import main

if __name__ == "__main__":
    sys.exit(main())

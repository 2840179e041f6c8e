"""`python -m qwen_asr`: the same as `qwen-asr`, without installing the package."""

import sys

from qwen_asr.cli.main import run_subcommand

if __name__ == "__main__":
    sys.exit(run_subcommand())

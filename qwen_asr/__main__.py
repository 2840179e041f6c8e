"""``python -m qwen_asr``: the same as ``qwen-asr``, without installing the package."""

import sys

from qwen_asr.cli.main import tool

if __name__ == "__main__":
    sys.argv[0] = "qwen-asr"
    sys.exit(tool())

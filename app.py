"""Parse, serve. The same server as `qwen-asr-serve-websocket`, and what a Hugging Face Space runs."""

import sys

from qwen_asr.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

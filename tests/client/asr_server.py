"""A server in a process of its own, to be killed: `python -m tests.client.asr_server PORT`.

It loads, waits for a line on standard input, listens and says so.
"""

import sys
import time

import torch

from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from tests.support.checkpoints import demo_recognizer
from tests.support.sockets import listening

if __name__ == "__main__":
    torch.set_num_threads(1)
    service = Service(Config(chunk_size_sec=0.5), demo_recognizer())
    if sys.stdin.readline():
        with listening(service, port=int(sys.argv[1])):
            print("ready", flush=True)
            time.sleep(300)  # should nobody kill it

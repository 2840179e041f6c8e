"""One thread: the models are tiny, and two threads that wait for each other are slower on a busy machine."""

import torch

torch.set_num_threads(1)

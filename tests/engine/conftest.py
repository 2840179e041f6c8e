"""Sets torch to one thread: the models are tiny, and two threads are slower on a busy machine."""

import torch

torch.set_num_threads(1)

"""Sets torch to one thread: the models are tiny, and two threads are slower on a busy machine. And to exact float32."""

import torch

torch.set_num_threads(1)
torch.backends.cudnn.allow_tf32 = False  # on a GPU, convolutions would round to 10 bits

"""The page of a Hugging Face Space with ZeroGPU: record or choose a file, then have it transcribed on a borrowed GPU.

ZeroGPU (the package `spaces`) forks a process for the calls of a decorated function and lends that process a GPU, while
the main process only pretends to have one. Arguments and results are pickled. So there is no live session here, whose
audio would have to reach a running call, and none of the server's threads, which a fork does not copy.
"""

"""`Replay`: a function over fixed buffers, which CUDA can capture as a graph."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")


class Replay(Generic[T]):
    """A function that reads fixed tensors and has no arguments. Once captured, a call replays its kernels.

    Launching a kernel takes longer than running it where tensors are small; a graph launches all of them at once. The
    outputs of a graph are always the same tensors, and graphs that share their memory write over each other's.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._call = function

    def __call__(self) -> T:
        """Call the function, or replay what it did when it was captured."""
        return self._call()

    def capture(self, device: torch.device, memory: Any) -> None:
        """Capture the function as a CUDA graph that takes its memory from the pool `memory`."""
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self._call()  # libraries allocate their workspaces in the first run, which must not be captured
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Passes of other models may run meanwhile, whose calls must not end the capture, nor it them.
        with torch.cuda.graph(graph, pool=memory, capture_error_mode="thread_local"):
            outputs = self._call()

        def replay() -> T:
            graph.replay()
            return outputs

        self._call = replay

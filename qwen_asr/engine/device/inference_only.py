"""Imports transformers and loads a checkpoint without what only training and compiling need.

transformers' models (5.23) also import torch's compiler (`torch._dynamo`, and through it sympy and
`torch.distributed.tensor`), `scipy.optimize` for the losses of object detection, and what the parallel training of
large models needs. That is more than half of the work of importing them, and recognition uses none of it.

- Two questions of transformers guard the imports of scipy and of parallel training. They remember their answers, so it
  is enough that each answers no once.
- Nothing guards the import of the compiler. Of it, three decorators and one class are needed by modules that are
  imported, and one of the decorators by operators that loading runs on the meta device. While both last, a module
  stands in for it in `sys.modules`.
"""

import contextlib
import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

COMPILER = "torch._dynamo"
COMPILER_MODULE, COMPILER_CLASS = f"{COMPILER}._trace_wrapped_higher_order_op", "TransformGetItemToIndex"
OUR_MODULES = ("qwen_asr.engine.checkpoint", "qwen_asr.engine.aligner")
"""The modules that hold classes of transformers."""

Result = TypeVar("Result")


def for_inference_only(load: Callable[[], Result]) -> Result:
    """Calls `load`, which imports transformers' models and loads a checkpoint; returns its result.

    It is for programs, not for libraries. Afterwards scipy, torch with its compiler, and transformers' `generate` work
    as ever, but parallel training with transformers and its losses of object detection lack their imports. Where
    transformers' models are imported already it only calls `load`. Where another version of torch or transformers does
    need what is kept away, `load` is called again, with everything.
    """
    if "transformers.modeling_utils" in sys.modules:
        return load()
    before = set(sys.modules)
    try:
        with _guards_answer_no(), _compiler_stands_aside():
            return load()
    except (ImportError, AttributeError, NameError):
        logger.info("Loading again, with everything that transformers imports.", exc_info=True)
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "transformers" or name in OUR_MODULES:
            del sys.modules[name]
    return load()


@contextlib.contextmanager
def _guards_answer_no() -> Iterator[None]:
    """Inside the block scipy and torch.distributed are not there for transformers; for all others they are."""
    import torch
    from transformers.utils import import_utils

    guards = (import_utils.is_scipy_available, import_utils.is_torch_distributed_available)
    find_package, is_available = import_utils._is_package_available, torch.distributed.is_available
    for guard in guards:
        guard.cache_clear()
    try:
        import_utils._is_package_available = lambda *_: (False, "N/A")
        torch.distributed.is_available = lambda: False
        for guard in guards:
            guard()  # remembers this answer
    finally:
        import_utils._is_package_available, torch.distributed.is_available = find_package, is_available
    try:
        yield
    finally:
        for guard in guards:
            guard.cache_clear()


@contextlib.contextmanager
def _compiler_stands_aside() -> Iterator[None]:
    """Inside the block a module with the four names stands in for the compiler, unless it is imported already."""
    from torch._compile import _disable_dynamo

    if COMPILER in sys.modules:
        yield
        return
    called: list[Any] = []

    def disable(function: Any = None, recursive: bool = True, *, wrapping: bool = True, **_: Any) -> Any:
        if wrapping:  # a decorator: torch's own form of it, which asks for the compiler when the function is called
            return _disable_dynamo(function, recursive)
        called.append(function)  # such a function is called, and nothing is being compiled
        return function

    def assume_constant_result(function: Any) -> Any:
        function._dynamo_marked_constant = True  # as torch does
        return function

    def create_class() -> Any:  # in place of a class, for modules that keep it
        return getattr(importlib.import_module(COMPILER_MODULE), COMPILER_CLASS)()

    compiler, inside = ModuleType(COMPILER), ModuleType(COMPILER_MODULE)
    vars(compiler).update(
        disable=disable,
        assume_constant_result=assume_constant_result,
        allow_in_graph=lambda function: function,  # what is compiled later is traced into these, which only costs time
    )
    vars(inside)[COMPILER_CLASS] = create_class
    sys.modules.update({COMPILER: compiler, COMPILER_MODULE: inside})
    try:
        yield
    finally:
        del sys.modules[COMPILER], sys.modules[COMPILER_MODULE]
        for function in called:
            vars(function).pop("__dynamo_disable", None)  # where torch remembers the answer of `disable`

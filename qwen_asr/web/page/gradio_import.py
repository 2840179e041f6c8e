"""Imports Gradio without rewriting its stub files, which is half of the work of the import, and without pandas.

When Gradio (6.31) creates a class of a component, it parses the class's source and its `.pyi` file, and renders that
file again for editors, though Gradio's own files are complete. Here the function that does this does nothing while
Gradio is imported. Afterwards it works again, for components that a program defines.

Two modules of Gradio import pandas for tables and plots, of which our page has none. It takes 35 MB and half a second,
so it is loaded when it is first used.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import LazyLoader
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

MODULE, FUNCTION = "gradio.component_meta", "create_or_modify_pyi"
SELDOM_USED = "pandas"


def import_gradio() -> None:
    """Imports Gradio, unless it is imported already."""
    if "gradio" in sys.modules:
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        import gradio  # noqa: F401 - stays in sys.modules
    finally:
        sys.meta_path.remove(finder)
        finder.restore()


class _Finder(MetaPathFinder):
    """Finds `MODULE` as Python does, and replaces `FUNCTION` when it has been executed. Defers `SELDOM_USED`."""

    def __init__(self) -> None:
        self._replaced: list[tuple[ModuleType, Any]] = []

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of the two modules; None for any other module, and for one that is not an ordinary source file."""
        if name not in (MODULE, SELDOM_USED):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin is None or type(spec.loader) is not SourceFileLoader:
            return None
        if name == SELDOM_USED:
            spec.loader = LazyLoader(spec.loader)
            return spec
        spec.loader = _Loader(name, spec.origin, self._replace)
        return spec

    def _replace(self, module: ModuleType) -> None:
        if hasattr(module, FUNCTION):
            self._replaced.append((module, getattr(module, FUNCTION)))
            setattr(module, FUNCTION, lambda *_: None)

    def restore(self) -> None:
        """Puts `FUNCTION` back."""
        for module, function in self._replaced:
            setattr(module, FUNCTION, function)


class _Loader(SourceFileLoader):
    """Loads a module from its source, and calls `executed` with it."""

    def __init__(self, name: str, path: str, executed: Any) -> None:
        super().__init__(name, path)
        self._executed = executed

    def exec_module(self, module: ModuleType) -> None:
        """As `SourceFileLoader` does; then calls `executed`."""
        super().exec_module(module)
        self._executed(module)

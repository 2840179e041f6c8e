"""`ModelPath`: one of the models that `--asr-model-path` gives, and how requests name it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen_asr.errors import BadConfig

AUTO = "auto"
_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class ModelPath:
    """A model: the `name` that requests give and answers show, and the `path`: a hub id, a folder, "demo" or "auto".

    Without a name of its own a model has that of its checkpoint. For "auto" that is known once it is loaded.
    """

    name: str
    path: str

    @classmethod
    def of(cls, given: str) -> ModelPath:
        """`PATH`, or `NAME=PATH`. A folder whose own name looks like the latter is written with `./` before it."""
        if (named := _NAMED.fullmatch(given)) is not None:
            return cls(named[1], named[2])
        folder = Path(given).expanduser()
        try:
            return cls(folder.resolve().name if folder.is_dir() else given, given)
        except PermissionError:  # this user may not look there; loading it says so
            return cls(given, given)

    @property
    def has_known_name(self) -> bool:
        """Whether `name` is what the model is called, before it is loaded."""
        return not self.name == self.path == AUTO


def model_paths(given: Iterable[str]) -> tuple[ModelPath, ...]:
    """The models in the order in which they are given; the first is the default.

    Raises `BadConfig` if there is none, if two have one name, and for "auto" beside others, which it may equal.
    """
    models = tuple(ModelPath.of(one) for one in given)
    if not models:
        raise BadConfig("--asr-model-path was given no model; expected at least one, such as Qwen/Qwen3-ASR-0.6B.")
    if len(models) > 1 and any(model.path == AUTO for model in models):
        raise BadConfig(
            "--asr-model-path was given auto and another model, but auto chooses the only one: name each of them, such "
            "as Qwen/Qwen3-ASR-1.7B and Qwen/Qwen3-ASR-0.6B."
        )
    names = [model.name.casefold() for model in models]
    for index, model in enumerate(models):
        if names[index] in names[:index]:
            raise BadConfig(
                f"Two models have the name {model.name}, by which requests choose: name one of them, as in "
                "--asr-model-path NAME=PATH."
            )
    return models


def model_named(models: Sequence[ModelPath], name: str | None) -> ModelPath | None:
    """The model that a request means by `name`; None if it is none of them.

    Case does not count. A name, or the path of a model, may be written with the organization before it or without.
    """
    wanted = (name or "").strip().casefold()
    for form in (str, _short):
        for model in models:
            known = (form(model.name.casefold()), form(model.path.casefold()))
            if form(wanted) and form(wanted) in known:
                return model
    return None


def check_single(models: Sequence[ModelPath], what: str) -> None:
    """Raises `BadConfig` if there are several models, which are not for `what`."""
    if len(models) > 1:
        raise BadConfig(f"--asr-model-path was given {len(models)} models, but {what} takes one: give that.")


def _short(name: str) -> str:
    """The name without the organization or folder before it."""
    return name.rpartition("/")[2]

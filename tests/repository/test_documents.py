"""The documents and the code agree, and no tracked file holds anything private."""

from __future__ import annotations

import re

import pytest

from qwen_asr import errors
from tests.repository.layout import ROOT, tracked

# What must never be in a file that is tracked: the folders of one person's machine, and secrets.
PRIVATE = {
    "a path of one machine": r"(?<![\w.])/(?:work|root|Users|home/(?!user/))(?:/|\b/)\w",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{20}",
    "a token": r"\b(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}|sk-[A-Za-z0-9_-]{32,})",
}


@pytest.mark.parametrize("what", PRIVATE)
def test_nothing_private_is_tracked(what: str) -> None:
    pattern = re.compile(PRIVATE[what].encode())
    assert [str(path.relative_to(ROOT)) for path in tracked() if pattern.search(path.read_bytes())] == []


def test_of_the_certificates_only_the_readme_is_tracked() -> None:
    assert [path.name for path in tracked() if path.parent == ROOT / "certs"] == ["README.md"]
    assert [path for path in tracked() if path.suffix in (".pem", ".key")] == []


def test_the_tree_of_errors_is_that_of_the_classes() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    drawn = re.findall(r"^    ([│├└─ ]*)(\w+)(.*)$", errors.__doc__ or "", re.MULTILINE)
    above: list[str] = []
    for lines, name, rest in drawn:
        depth = len(lines) // 4
        above = [*above[:depth], name]
        kind = getattr(errors, name)
        parents = [parent.__name__ for parent in reversed(kind.__mro__) if issubclass(parent, errors.QwenASRError)]
        assert parents == above
        status, close, code = re.fullmatch(r"\s+(\d{3})?\s*(\d{4})?\s*(?:exit (\d))?\s.*", rest).groups()  # type: ignore[union-attr]  # a line that does not match fails here
        own = (kind.http_status, kind.close_code, kind.exit_code)
        for said, is_so in zip((status, close, code), own, strict=True):
            assert said is None or int(said) == is_so, f"{name}: {said} is drawn, {is_so} it is"
    assert [name for _, name, _ in drawn] == [kind.__name__ for kind in classes]
    assert all(kind.__doc__ for kind in classes)

"""What `qwen-asr transcribe` prints and keeps when an input fails in the middle."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_asr.cli.outputs import Output, ResultFolder, Resume, StandardOutput
from qwen_asr.cli.progress import Progress
from qwen_asr.errors import AudioError, StepFailed
from qwen_asr.live.events import Final
from qwen_asr.live.subtitles.cues import CueLimits

FINALS = [Final(n, n * 16_000, (n + 1) * 16_000, "English", f"Sentence {n}.", 0.0) for n in range(3)]


def transcribe(name: str, resume: Resume | None) -> Iterator[Final]:
    """A transcriber of inputs that are called "REASON AFTER": they fail after so many finals."""
    reason, after = name.split()
    known = list(resume({"content": name})) if resume is not None else []
    yield from known
    yield from FINALS[len(known) : int(after)]
    if reason == "audio":
        raise AudioError("It is damaged.")
    if reason == "step":
        raise StepFailed("The GPU is full.")


def write(output: Output, *names: str) -> list[type[Exception]]:
    """Writes the inputs as the command does; returns the errors that concern one input only."""
    errors: list[type[Exception]] = []
    with output:
        for name in output.begin(names):
            try:
                output.write(name, transcribe, Progress(names))
            except AudioError as error:
                errors.append(type(error))
    return errors


def test_json_is_valid_whatever_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert write(StandardOutput("json", several=True), "audio 0", "audio 2", "none 3", "audio 0") == [AudioError] * 3
    printed = json.loads(capsys.readouterr().out)
    assert [(one["file"], len(one["utterances"])) for one in printed] == [("audio 2", 2), ("none 3", 3)]
    assert printed[0]["text"] == "Sentence 0. Sentence 1."
    with pytest.raises(StepFailed):
        write(StandardOutput("json", several=True), "none 1", "step 2", "none 3")
    printed = json.loads(capsys.readouterr().out)
    assert [(one["file"], len(one["utterances"])) for one in printed] == [("none 1", 1), ("step 2", 2)]
    assert write(StandardOutput("json", several=False), "audio 2") == [AudioError]
    assert json.loads(capsys.readouterr().out)["language"] == "English"
    assert write(StandardOutput("json", several=True), "audio 0", "audio 0") == [AudioError] * 2
    assert json.loads(capsys.readouterr().out) == []
    with pytest.raises(StepFailed):
        write(StandardOutput("json", several=True), "step 0", "none 1")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_cues_are_as_wide_as_they_may_be(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = CueLimits(columns=8, lines=1, seconds=0.5)
    assert write(StandardOutput(form, several=False, limits=limits), "none 1") == []
    printed = capsys.readouterr().out
    assert re.findall(r"(\S+) --> (\S+)\n(.*)\n\n", printed.replace(",", ".")) == [
        ("00:00:00.000", "00:00:00.500", "Sentence"),
        ("00:00:00.800", "00:00:01.000", "0."),
    ]
    assert write(ResultFolder(tmp_path, form, {}, overwrite=False, limits=limits), "none 1") == []
    assert (tmp_path / f"none 1.{form}").read_text() == printed


@pytest.mark.parametrize("form", ["txt", "srt", "vtt", "json"])
def test_an_input_that_fails_before_its_first_utterance_leaves_nothing(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write(StandardOutput(form, several=False), "audio 0") == [AudioError]
    assert write(ResultFolder(tmp_path, form, {}, overwrite=False), "audio 0") == [AudioError]
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_keeps_what_came_before_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ResultFolder(tmp_path, "srt", {}, overwrite=False)
    assert write(output, "audio 2", "none 3") == [AudioError]
    assert capsys.readouterr().out == f"{tmp_path / 'none 3.srt'}\n"
    assert (tmp_path / "audio 2.srt.part").read_text().count("-->") == 2
    assert not (tmp_path / "audio 2.srt").exists()
    assert write(output, "audio 2") == [AudioError]
    assert "audio 2 goes on after 0:00:02" in capsys.readouterr().err

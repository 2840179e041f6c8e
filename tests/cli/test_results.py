"""The names of result files, and what they hold after any interruption."""

from __future__ import annotations

import io
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.cli.results import ResultFile, identified, result_paths
from qwen_asr.errors import BadConfig, OtherResult, StorageError
from qwen_asr.live.events import Final
from qwen_asr.live.subtitles.formats import PIECES
from tests.support.engine_double import words_of

CONDITIONS = {"version": "1", "options": {"context": "Grünau"}}


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["a.wav", "sub/b.tar.mp3", "-"], ["a.srt", "b.tar.srt", "stdin.srt"]),
        (["a.wav", "b.wav", "a.wav"], ["a.srt", "b.srt"]),
        (["a.wav", "a.mp3", "b.mp3"], ["a.wav.srt", "a.mp3.srt", "b.srt"]),
        (["A.wav", "a.mp3"], ["A.wav.srt", "a.mp3.srt"]),
        (["mon/1.mp3", "tue/1.mp3", "tue/1.wav"], ["mon/1.mp3.srt", "tue/1.mp3.srt", "1.wav.srt"]),
        (["x/mon/1.mp3", "y/mon/1.mp3"], ["x/mon/1.mp3.srt", "y/mon/1.mp3.srt"]),
        (["mon/../1.mp3", "tue/1.mp3"], ["here/1.mp3.srt", "tue/1.mp3.srt"]),
        (["-", "stdin.wav"], ["stdin.srt", "stdin.wav.srt"]),
        (["http://host/a/talk%20one.mp3?key=1"], ["talk_one.srt"]),
        (["http://host/"], ["host.srt"]),
        (["http://host/..%2f..%2fetc/%00.wav", "https://host:1/a/.wav"], ["_.srt", "wav.srt"]),
        (["http://one/a.mp3", "http://two/a.mp3"], ["one/a.mp3.srt", "two/a.mp3.srt"]),
        (["http://host/" + "x" * 300], ["x" * 200 + ".srt"]),
        (["http://", "http://[x"], ["http_.srt", "http_x.srt"]),  # no addresses, as fetching them says
    ],
)
def test_each_input_has_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], names: list[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    paths = result_paths(inputs, Path("results"), "srt")
    assert [path.relative_to("results").as_posix() for path in paths.values()] == names


def test_two_addresses_that_differ_in_their_query_only_have_two_names() -> None:
    inputs = ["http://host/watch?v=1", "http://host/watch?v=2"]
    one, two = result_paths(inputs, Path("results"), "txt").values()
    assert one != two
    assert (one.name[:6], one.parent) == ("watch-", Path("results"))


def test_a_result_never_replaces_an_input(tmp_path: Path) -> None:
    (tmp_path / "song.txt").write_bytes(b"RIFF")
    with pytest.raises(BadConfig, match=r"would replace the input .*song\.txt: give another --output-dir"):
        result_paths([str(tmp_path / "song.txt")], tmp_path, "txt")
    with pytest.raises(BadConfig, match="would have the same result file"):
        result_paths(["a.wav", "./a.wav"], tmp_path, "txt")


def finals(count: int, shift: int = 0) -> list[Final]:
    found = []
    for n in range(count):
        start, end, text = n * SAMPLE_RATE + shift, (n + 1) * SAMPLE_RATE, f"Satz „{n}“."
        words = words_of(text, start, end)
        found.append(Final(n, start, end, "German", text, 0.5, warnings=("tokens: x.",), words=words))
    return found


class Interrupted(Exception):
    pass


def transcribe(path: Path, form: str, stop: int | None, shift: int = 0, conditions: object = CONDITIONS) -> list[Final]:
    """Writes a result of four utterances, up to an interruption; returns those that were known."""
    with ResultFile(path) as result:
        known = result.resume({"conditions": conditions})

        def heard() -> Iterator[Final]:
            for index, final in enumerate(finals(4, shift)):
                if index == stop:
                    raise Interrupted
                same = index < len(known) and known[index].start == final.start
                yield known[index] if same else final

        for piece in PIECES[form](result.record(heard())):
            result.write(piece)
        result.finish()
    return known


@pytest.mark.parametrize("form", PIECES)
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_result_is_resumed_to_the_same_bytes(tmp_path: Path, form: str, stop: int) -> None:
    assert transcribe(tmp_path / "whole", form, None) == []
    path = tmp_path / "result"
    with pytest.raises(Interrupted):
        transcribe(path, form, stop)
    part = (tmp_path / "result.part").read_bytes()
    assert (tmp_path / "whole").read_bytes().startswith(part)
    assert f"„{stop - 1}“".encode() in part
    with pytest.raises(Interrupted):
        transcribe(path, form, stop - 1)  # interrupted again, before anything new is known: nothing is lost
    assert (tmp_path / "result.part").read_bytes() == part
    assert transcribe(path, form, None) == finals(stop)
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["result", "whole"]


@pytest.mark.parametrize("kept", range(0, 700, 7))
def test_a_journal_that_breaks_off_anywhere_is_read_up_to_its_last_whole_line(tmp_path: Path, kept: int) -> None:
    transcribe(tmp_path / "whole", "srt", None)
    path, journal = tmp_path / "result", tmp_path / "result.resume"
    with pytest.raises(Interrupted):
        transcribe(path, "srt", 3)
    content = journal.read_bytes()
    journal.write_bytes(content[:kept])
    lines = content[:kept].count(b"\n")
    assert transcribe(path, "srt", None) == finals(max(0, lines - 1))
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_finals_that_do_not_fit_the_audio_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "result"
    with pytest.raises(Interrupted):
        transcribe(path, "srt", 3)
    with pytest.raises(Interrupted):
        transcribe(path, "srt", 2, shift=1)
    assert transcribe(path, "srt", None, shift=1) == finals(2, shift=1)
    transcribe(tmp_path / "whole", "srt", None, shift=1)
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_other_conditions_are_refused_and_an_empty_result_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "result"
    with pytest.raises(Interrupted):
        transcribe(path, "srt", 0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Interrupted):
        transcribe(path, "srt", 2)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with pytest.raises(OtherResult, match=r"result\.part is of other options.* --overwrite to begin again"):
        transcribe(path, "srt", None, conditions="others")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
    with ResultFile(path) as result:
        assert result.resume({"conditions": "others"}, overwrite=True) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "result.part"]


def test_a_full_disk_keeps_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "result"
    transcribe(tmp_path / "whole", "srt", None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, before[1]))
    try:
        with pytest.raises(
            StorageError, match=r"result\.resume cannot be written \(File too large\): make room, .*goes on"
        ):
            transcribe(path, "srt", None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    known = transcribe(path, "srt", None)
    assert 0 < len(known) < 4
    assert known == finals(len(known))
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_two_commands_do_not_write_the_same_result(tmp_path: Path) -> None:
    path = tmp_path / "result"
    with pytest.raises(Interrupted):
        transcribe(path, "srt", 2)
    with ResultFile(path) as first:
        assert first.resume({"conditions": CONDITIONS}) == finals(2)
        with pytest.raises(StorageError, match="result is being written by another command: wait for it"):
            transcribe(path, "srt", None)
    assert transcribe(path, "srt", None) == finals(2)


def test_content_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    assert identified(path, "it") == (path, identified(path, "it")[1])
    first = identified(path, "it")[1]
    os.utime(path, ns=(1, 1))
    assert identified(path, "it")[1] != first
    missing = tmp_path / "missing.wav"
    assert identified(missing, "it") == (missing, {})
    source, known = identified(io.BytesIO(b"one"), "it")
    assert isinstance(source, io.BytesIO)
    assert source.read() == b"one"
    assert known != identified(io.BytesIO(b"two"), "it")[1]
    reader, writer = os.pipe()
    os.write(writer, b"one")
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        spooled, same = identified(pipe, "it")
    assert not isinstance(spooled, Path)
    assert (spooled.read(), same) == (b"one", known)
    spooled.close()

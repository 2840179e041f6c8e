"""`qwen-asr transcribe`: formats, sources, errors and progress."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import wave
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import srt

from qwen_asr.cli.transcribe import FORMATS
from tests.support.checkpoints import spoken
from tests.support.commands import OFFLINE, QWEN_ASR, ROOT, error_of, run, run_in_terminal
from tests.support.media import Track, container, placed, save, tone

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bad_files(tmp_path: Path) -> dict[str, Path]:
    """Files that cannot be transcribed."""
    files = {name: tmp_path / name for name in ("text.wav", "empty.wav", "missing.wav", "folder.wav", "noise.mp3")}
    files["text.wav"].write_text("This is not audio, whatever its name says.\n" * 50)
    files["empty.wav"].touch()
    files["folder.wav"].mkdir()
    files["noise.mp3"].write_bytes(bytes(range(256)) * 64)
    return files


@pytest.mark.parametrize("name", ["text.wav", "empty.wav", "missing.wav", "folder.wav", "noise.mp3"])
def test_a_file_that_is_not_audio(qwen_asr: Command, bad_files: dict[str, Path], name: str) -> None:
    done = qwen_asr("transcribe", bad_files[name])
    assert done.returncode == 2
    assert name in error_of(done)


@pytest.mark.slow
def test_each_of_several_bad_files_is_reported(bad_files: dict[str, Path]) -> None:
    done = run(*QWEN_ASR, "transcribe", *(str(path) for path in bad_files.values()))
    assert done.returncode == 2
    assert done.stdout == ""
    assert [name for name, line in zip(bad_files, done.stderr.splitlines(), strict=True) if name not in line] == []


@pytest.mark.parametrize("kind", ["empty folder", "other architecture", "broken configuration", "no weights"])
def test_a_folder_without_a_checkpoint(qwen_asr: Command, sentence: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    config = {
        "empty folder": None,
        "other architecture": json.dumps({"model_type": "whisper", "architectures": ["Whisper"]}),
        "broken configuration": "{",
        "no weights": (ROOT / "qwen_asr" / "demo" / "checkpoint" / "config.json").read_text(),
    }[kind]
    if config is not None:
        (folder / "config.json").write_text(config)
    message = error_of(qwen_asr("transcribe", "--asr-model-path", folder, sentence))
    assert str(folder) in message
    if kind == "other architecture":
        assert "whisper" in message


@pytest.mark.slow
def test_a_named_model_is_never_replaced_by_another(sentence: Path, tmp_path: Path) -> None:
    done = run(
        *QWEN_ASR, "transcribe", "--asr-model-path", "nobody/nothing", str(sentence), HF_HOME=str(tmp_path / "hub")
    )
    assert "nobody/nothing" in error_of(done)


@pytest.mark.slow
def test_transcribe_uses_the_demo_only_if_it_is_named(sentence: Path, tmp_path: Path) -> None:
    done = run(*QWEN_ASR, "transcribe", str(sentence), HF_HOME=str(tmp_path / "hub"), QWEN_ASR_MODEL_PATH="auto")
    assert done.returncode == 1
    assert error_of(done).startswith("No Qwen3-ASR weights are cached and none can be fetched")
    assert "--asr-model-path demo" in done.stderr
    done = run(*QWEN_ASR, "transcribe", str(sentence), HF_HOME=str(tmp_path / "hub"), QWEN_ASR_MODEL_PATH="demo")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_transcribe_in_each_format(qwen_asr: Command, sentence: Path, form: str) -> None:
    done = qwen_asr("transcribe", "--asr-model-path", "demo", "--device", "cpu", "--format", form, sentence)
    assert (done.returncode, done.stderr) == (0, "")
    assert "kitchen" in done.stdout
    beginning = {"txt": "Turn", "srt": "1\n00:00:0", "vtt": "WEBVTT\n\n00:00:0", "json": "{\n"}[form]
    assert done.stdout.startswith(beginning)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
@pytest.mark.slow
def test_transcribe_from_a_pipe(sentence: Path, tmp_path: Path, name: str) -> None:
    command = [*QWEN_ASR, "transcribe", "--asr-model-path", "demo", name]
    environment = {**os.environ, **OFFLINE}
    done = subprocess.run(command, env=environment, input=sentence.read_bytes(), capture_output=True, check=True)
    assert done.stdout.startswith(b"Turn")
    done = subprocess.run(command, env=environment, input=b"", capture_output=True, check=False)
    expected = "Standard input" if name == "-" else "'/dev/stdin'"
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"error: {expected} is empty" in done.stderr.decode()


@pytest.mark.slow
def test_transcribe_from_a_url(qwen_asr: Command, sentence: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(sentence.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        done = qwen_asr("transcribe", "--asr-model-path", "demo", f"{url}/speech.wav")
        missing = qwen_asr("transcribe", "--asr-model-path", "demo", f"{url}/missing.wav")
        server.shutdown()
    assert done.stdout.startswith("Turn")
    assert missing.returncode == 2
    assert f"{url}/missing.wav answered 404" in missing.stderr


@pytest.mark.slow
def test_json_of_several_files_is_an_array(qwen_asr: Command, sentence: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    options = ["--asr-model-path", "demo", "--format", "json"]
    done = qwen_asr("transcribe", *options, sentence, tmp_path / "empty.wav", sentence)
    assert done.returncode == 2
    both = json.loads(done.stdout)
    assert [transcript.pop("file") for transcript in both] == [str(sentence)] * 2
    assert both == [json.loads(qwen_asr("transcribe", *options, sentence).stdout)] * 2


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitle_formats_accept_only_one_file(qwen_asr: Command, form: str) -> None:
    done = qwen_asr("transcribe", "--format", form, "a.wav", "b.wav")
    assert done.returncode == 2
    assert error_of(done).endswith("one file at a time, or --format txt or json.")


@pytest.mark.parametrize("form", ["txt", "srt"])
def test_a_file_without_speech_is_reported(qwen_asr: Command, tmp_path: Path, form: str) -> None:
    path = tmp_path / "silence.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(64_000))
    done = qwen_asr("transcribe", "--asr-model-path", "demo", "--format", form, path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"No speech was found in {path}.\n"


def test_a_bad_file_does_not_prevent_the_others(qwen_asr: Command, sentence: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    done = qwen_asr("transcribe", "--asr-model-path", "demo", empty, sentence)
    assert done.returncode == 2
    assert done.stdout.startswith(f"{sentence}: Turn")
    assert "empty.wav" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_terminal_shows_the_progress(sentence: Path) -> None:
    code, output = run_in_terminal([*QWEN_ASR, "transcribe", "--asr-model-path", "demo", str(sentence), str(sentence)])
    assert code == 0
    before, _, after = output.partition("Turn on")
    assert "Starting" in before
    assert "demo" in before  # a sentence about the model that is being loaded
    assert re.search(r"of \d+ s \[", after)
    assert output.count("Turn on the kitchen light.\r\n") == 2


@pytest.mark.slow
def test_a_terminal_shows_that_the_model_is_being_downloaded(sentence: Path, tmp_path: Path) -> None:
    command = [*QWEN_ASR, "transcribe", "--asr-model-path", "nobody/nothing", str(sentence)]
    code, output = run_in_terminal(command, HF_HOME=str(tmp_path / "hub"))
    assert code == 1
    before, _, after = output.partition("\r\x1b[Kqwen-asr: error: ")
    assert "nobody/nothing" in before
    assert after.startswith("nobody/nothing")


DEMO = ("transcribe", "--asr-model-path", "demo", "--device", "cpu")


@pytest.mark.slow
def test_cues_have_the_times_of_a_film_whose_sound_begins_late(qwen_asr: Command, tmp_path: Path) -> None:
    speech = placed((0.2, spoken("Turn on the kitchen light.")), seconds=3)
    late = Track(speech, codec="libopus", start=4.94)
    film = save(tmp_path / "film.mkv", container("matroska", late, Track(tone(8, level=0.0))))
    whole = placed((4.94, speech), seconds=8)
    truth = save(tmp_path / "truth.wav", container("wav", Track(whole)))
    (cue,), (expected,) = (
        list(srt.parse(qwen_asr(*DEMO, "--format", "srt", "--track", "1", path).stdout)) for path in (film, truth)
    )
    assert cue.content == expected.content == "Turn on the kitchen light."
    assert expected.start.total_seconds() > 4.5
    assert abs(cue.start.total_seconds() - expected.start.total_seconds()) < 0.05
    assert abs(cue.end.total_seconds() - expected.end.total_seconds()) < 0.05


@pytest.mark.slow
def test_the_track_that_is_transcribed(qwen_asr: Command, tmp_path: Path) -> None:
    one = placed((0.3, spoken("Turn on the kitchen light.")), seconds=3)
    two = placed((0.3, spoken("Wake me up at half past six.")), seconds=3)
    tracks = Track(one, tags={"language": "ger"}, default=True), Track(two, tags={"language": "eng"})
    film = save(tmp_path / "film.mkv", container("matroska", *tracks))
    assert "kitchen" in qwen_asr(*DEMO, film).stdout
    assert "half past" in qwen_asr(*DEMO, "--language", "en", film).stdout
    assert "kitchen" in qwen_asr(*DEMO, "--language", "en", "--track", "German", film).stdout
    done = qwen_asr(*DEMO, "--track", "3", film)
    assert done.returncode == 2
    assert "it has 1 (ger, pcm_s16le, 1 channel); 2 (eng, pcm_s16le, 1 channel)" in error_of(done)
    done = qwen_asr(*DEMO, "--channel", "right", film)
    assert "has no channel 'right'; its track has the channels 1: give a number" in error_of(done)


@pytest.mark.slow
def test_inverted_stereo_is_transcribed_with_a_warning(
    qwen_asr: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    speech = placed((0.3, spoken("Turn on the kitchen light.")), seconds=3)
    path = save(tmp_path / "plug.wav", container("wav", Track(np.stack([speech, -speech], axis=1), layout="stereo")))
    assert qwen_asr(*DEMO, path).stdout == "Turn on the kitchen light.\n"
    assert "One side of the stereo sound" in caplog.text  # warnings go to stderr

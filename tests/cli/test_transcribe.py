"""`qwen-asr transcribe`: formats, sources, errors and progress."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import srt
from av.stream import Disposition

from qwen_asr.cli.transcribe import FORMATS, FileTranscriber
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.streaming import Utterance
from qwen_asr.errors import StepFailed
from tests.support.aligners import aligned_by, even_words
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.commands import OFFLINE, QWEN_ASR, ROOT, error_of, run, run_in_terminal, run_with_input
from tests.support.engine_double import AlignerDouble
from tests.support.media import Track, container, placed, save, tone
from tests.support.network import free_ports

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


@pytest.mark.parametrize("language", ["tl", "eng", "deu", "cmn", "zh-HK", "zh_TW", "粤语"])
def test_codes_and_own_names_of_languages_are_understood(qwen_asr: Command, language: str) -> None:
    assert "missing.wav" in error_of(qwen_asr("transcribe", "--language", language, "missing.wav"))
    assert "Did you mean" in error_of(qwen_asr("transcribe", "--language", "Germn", "missing.wav"))


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
def test_transcribe_takes_one_model_and_any_name_for_it(sentence: Path) -> None:
    command = [*QWEN_ASR, "transcribe", "--asr-model-path", "mine=demo", str(sentence)]
    done = run(*command)
    assert (done.returncode, done.stdout) == (0, "Turn on the kitchen light.\n")
    done = run(*command, "--asr-model-path", "demo")
    assert "--asr-model-path was given 2 models, but transcribe takes one" in error_of(done)


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


@pytest.mark.slow
def test_json_has_the_words_of_a_model_with_an_aligner(
    qwen_asr: Command, sentence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileTranscriber, "_load_recognizer", lambda _: demo_recognizer())
    for aligner in (AlignerDouble(is_quick=True), AlignerDouble(is_quick=False)):
        with aligned_by(demo_recognizer(), aligner):
            done = qwen_asr("transcribe", "--format", "json", sentence)
        [utterance] = json.loads(done.stdout)["utterances"]
        words = even_words("Turn on the kitchen light.", utterance["start"], utterance["end"])
        assert utterance["words"] == words
    with aligned_by(demo_recognizer(), None):
        done = qwen_asr("transcribe", "--format", "json", sentence)
    assert "words" not in json.loads(done.stdout)["utterances"][0]


@pytest.mark.slow
def test_a_text_without_times_needs_no_aligner(
    qwen_asr: Command, sentence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: list[str | None] = []

    def load(*_: Any, aligner_path: str | None, **__: Any) -> Recognizer:
        paths.append(aligner_path)
        return demo_recognizer()

    monkeypatch.setattr("qwen_asr.engine.aligner.load_with_aligner", load)
    options = ["--aligner-model-path", "aligner", "--format"]
    aligner = AlignerDouble(is_quick=True)
    with aligned_by(demo_recognizer(), aligner):
        assert qwen_asr("transcribe", *options, "txt", sentence).stdout == "Turn on the kitchen light.\n"
        assert aligner.batches == []
        for form in ("srt", "vtt", "json"):
            assert "kitchen" in qwen_asr("transcribe", *options, form, sentence).stdout
    assert sum(map(len, aligner.batches)) == 3
    assert paths == [None, *["aligner"] * 3]


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


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_several_files_in_each_format_go_into_a_folder(
    qwen_asr: Command, sentence: Path, tmp_path: Path, form: str
) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "more").mkdir()
    other = Path(shutil.copy(sentence, tmp_path / "more"))
    folder = tmp_path / "new" / "results"
    options = ["--asr-model-path", "demo", "--format", form]
    done = qwen_asr("transcribe", *options, "--output-dir", folder, sentence, tmp_path / "empty.wav", other, sentence)
    assert done.returncode == 2
    results = [folder / tmp_path.name / f"speech.wav.{form}", folder / "more" / f"speech.wav.{form}"]
    assert done.stdout.splitlines() == [str(path) for path in results]
    assert "empty.wav" in done.stderr
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(results)
    alone = qwen_asr("transcribe", *options, sentence).stdout
    assert [path.read_text(encoding="utf-8") for path in results] == [alone] * 2


@pytest.mark.slow
def test_a_complete_result_is_skipped_until_it_is_to_be_overwritten(
    qwen_asr: Command, sentence: Path, tmp_path: Path
) -> None:
    (tmp_path / "speech.txt").write_text("edited by hand\n")
    command = ["transcribe", "--asr-model-path", "demo", "--output-dir", tmp_path, sentence]
    done = qwen_asr(*command)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        f"{tmp_path / 'speech.txt'} exists, so {sentence} is skipped; --overwrite transcribes it again.\n"
    )
    assert (tmp_path / "speech.txt").read_text() == "edited by hand\n"
    assert qwen_asr(*command, "--overwrite").returncode == 0
    assert (tmp_path / "speech.txt").read_text().startswith("Turn on")


@pytest.mark.slow
def test_standard_input_goes_into_a_folder(sentence: Path, tmp_path: Path) -> None:
    command = [*QWEN_ASR, "transcribe", "--asr-model-path", "demo", "--format", "srt", "--output-dir", str(tmp_path)]
    done = run_with_input(sentence.read_bytes(), *command, "-")
    assert (done.returncode, done.stderr) == (0, b"")
    assert "kitchen" in (tmp_path / "stdin.srt").read_text()


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_standard_output_holds_the_subtitles_of_one_file(qwen_asr: Command, form: str) -> None:
    done = qwen_asr("transcribe", "--format", form, "a.wav", "b.wav")
    assert done.returncode == 2
    assert "give --output-dir" in error_of(done)


@pytest.mark.slow
def test_the_limits_of_cues(qwen_asr: Command, sentence: Path) -> None:
    limits = ["--max-line-width", "12", "--max-line-count", "1", "--max-cue-seconds", "3"]
    done = qwen_asr("transcribe", "--asr-model-path", "demo", "--format", "srt", *limits, sentence)
    cues = list(srt.parse(done.stdout))
    assert " ".join(cue.content for cue in cues) == "Turn on the kitchen light."
    assert max(len(cue.content) for cue in cues) <= 12
    assert max((cue.end - cue.start).total_seconds() for cue in cues) <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-line-width", "3"], "argument --max-line-width: '3' was given, expected a whole number from 4 to 1000"),
        (["--max-line-count", "1.5"], "argument --max-line-count: '1.5' was given, expected a whole number from 1"),
        (["--max-cue-seconds", "nan"], "argument --max-cue-seconds: 'nan' was given, expected a number from 0.5"),
        (["--max-line-width", "30", "--format", "json"], "--max-line-width was given with --format json, which"),
    ],
)  # fmt: skip
def test_limits_of_cues_that_cannot_be_used(qwen_asr: Command, options: list[str], message: str) -> None:
    done = qwen_asr("transcribe", *options, "a.wav")
    assert done.returncode == 2
    assert message.casefold() in error_of(done).casefold()


def test_options_of_a_folder_that_cannot_be_used(qwen_asr: Command, sentence: Path, tmp_path: Path) -> None:
    done = qwen_asr("transcribe", "--overwrite", sentence)
    assert done.returncode == 2
    assert "without --output-dir" in error_of(done)
    done = qwen_asr("transcribe", "--output-dir", sentence, sentence)
    assert done.returncode == 2
    assert f"{sentence} is a file, not a folder" in error_of(done)


@pytest.mark.slow
def test_a_full_disk_is_reported(sentence: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [
            *QWEN_ASR,
            "transcribe",
            "--asr-model-path",
            "demo",
            "--format",
            "json",
            str(sentence),
            str(sentence),
        ]
        environment = {**os.environ, **OFFLINE}
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert "Standard output cannot be written (No space left on device)" in line


# --- interruptions

# Runs the command, and stops for ever when three utterances are known, so that a signal comes at no other time.
HELD = """
import itertools, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from qwen_asr.cli.main import run_subcommand
from qwen_asr.cli.transcribe import FileTranscriber
finals = FileTranscriber.finals
def held(*arguments):
    yield from itertools.islice(finals(*arguments), 3)
    time.sleep(3600)
FileTranscriber.finals = held
sys.exit(run_subcommand(sys.argv[1:]))
"""
SENTENCES = ("Turn on the kitchen light.", "Open the door.", "Close the window.", "Turn off the bedroom light.")


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str]) -> Path:
    """Five sentences with pauses."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    samples = bytearray()
    for sentence in (*SENTENCES, SENTENCES[0]):
        spoken = subprocess.run([program("espeak-ng"), "--stdout", sentence], capture_output=True, check=True).stdout
        samples += spoken[44:] + bytes(2 * 22_050 * 3 // 2)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 22_050, 0, "NONE", ""))
        file.writeframes(bytes(samples))
    return path


@contextlib.contextmanager
def held_command(*arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process that stops after three utterances, and is killed at the end."""
    command = [sys.executable, "-c", HELD, "transcribe", "--asr-model-path", "demo", *map(str, arguments)]
    with subprocess.Popen(command, env={**os.environ, **OFFLINE}, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(path: Path, text: str) -> str:
    """The content of a file, once it has the text."""
    deadline = time.monotonic() + 120
    while not (path.exists() and text in path.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, f"{text!r} does not come"
        time.sleep(0.02)
    return path.read_text(encoding="utf-8")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of each utterance that the model decodes."""
    lengths: list[int] = []
    finish = Utterance.finish

    def counted(utterance: Utterance) -> Hypothesis:
        lengths.append(utterance.length)
        return finish(utterance)

    monkeypatch.setattr(Utterance, "finish", counted)
    return lengths


@pytest.mark.slow
@pytest.mark.parametrize(("form", "number"), [("srt", signal.SIGKILL), ("json", signal.SIGINT)])
def test_an_interrupted_result_is_kept_and_resumed(
    qwen_asr: Command, long_file: Path, tmp_path: Path, decoded: list[int], form: str, number: signal.Signals
) -> None:
    options: list[str | Path] = ["--format", form, "--output-dir", tmp_path, long_file]
    result, part = tmp_path / f"long.{form}", tmp_path / f"long.{form}.part"
    with held_command(*options) as process:
        kept = wait_for(part, "window")
        process.send_signal(number)
        assert process.wait(60) == -number
    assert "bedroom" not in kept
    assert part.read_text() == kept
    assert not result.exists()
    whole = qwen_asr("transcribe", "--asr-model-path", "demo", *options[:2], long_file).stdout
    assert len(decoded) == 5
    assert whole.startswith(kept)
    decoded.clear()
    done = qwen_asr("transcribe", "--asr-model-path", "demo", *options)
    assert (done.returncode, done.stdout) == (0, f"{result}\n")
    assert re.fullmatch(rf"{re.escape(str(part))} is there already, so .* goes on after 0:00:0\d\.\n", done.stderr)
    assert len(decoded) == 2  # not the three that were known
    assert result.read_bytes() == whole.encode()
    assert [path.name for path in tmp_path.iterdir()] == [result.name]


@pytest.mark.slow
def test_a_result_that_failed_is_not_touched_under_other_conditions_until_it_is_to_be_overwritten(
    qwen_asr: Command, long_file: Path, tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = Path(shutil.copy(long_file, tmp_path / "talk.wav"))
    part, journal = tmp_path / "talk.txt.part", tmp_path / "talk.txt.resume"
    options: list[str | Path] = ["--output-dir", tmp_path, audio]
    steps = iter([1, 2, 3])

    def failing(utterance: Utterance) -> Hypothesis:
        if next(steps, None) is None:
            raise StepFailed("The GPU is full: close other programs.")
        return whole(utterance)

    whole = Utterance.finish
    with monkeypatch.context() as patched:
        patched.setattr(Utterance, "finish", failing)
        done = qwen_asr("transcribe", "--asr-model-path", "demo", *options)
    assert (done.returncode, done.stdout) == (1, "")
    kept = {path: path.read_bytes() for path in (part, journal)}
    assert b"window" in kept[part]
    decoded.clear()

    def others() -> Iterator[list[str | Path]]:
        yield ["--language", "English", *options]
        yield ["--max-utterance-seconds", "20", *options]
        os.utime(audio, ns=(1, 1))
        yield options

    for other in others():
        done = qwen_asr("transcribe", "--asr-model-path", "demo", *other)
        assert (done.returncode, decoded) == (2, [])
        assert f"{part} is of other options" in error_of(done)
        assert {path: path.read_bytes() for path in (part, journal)} == kept
    done = qwen_asr("transcribe", "--asr-model-path", "demo", "--overwrite", *options)
    assert (done.returncode, len(decoded), done.stderr) == (0, 5, "")


@pytest.mark.slow
def test_standard_output_has_each_utterance_as_soon_as_it_is_known(long_file: Path) -> None:
    with held_command("--format", "json", long_file, long_file) as process:
        assert process.stdout is not None
        output = b""
        while b"window" not in output:
            block = os.read(process.stdout.fileno(), 4096)
            assert block
            output += block
        assert b"bedroom" not in output


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
    unreachable = {
        "HF_ENDPOINT": f"http://127.0.0.1:{free_ports(1)[0]}",
        "HF_HUB_OFFLINE": "",
        "TRANSFORMERS_OFFLINE": "",
    }
    code, output = run_in_terminal(command, HF_HOME=str(tmp_path / "hub"), **unreachable)
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
    tracks = Track(one, tags={"language": "ger"}, disposition=Disposition.default), Track(two, tags={"language": "eng"})
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

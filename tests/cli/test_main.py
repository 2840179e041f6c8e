"""The command line: options, error messages, exit codes, and output of `qwen-asr` and `app.py`."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from qwen_asr import __version__
from qwen_asr.cli import main as cli
from qwen_asr.cli.transcribe import FORMATS

ROOT = Path(__file__).parents[2]
SERVE = [sys.executable, str(ROOT / "app.py")]
QWEN_ASR = [sys.executable, "-m", "qwen_asr"]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run(*command: str, folder: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **OFFLINE, **environ}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def qwen_asr(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`qwen_asr(arguments…)` runs `qwen-asr` in this process, so that torch is imported only once."""

    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        code = cli.run_subcommand([str(argument) for argument in arguments])
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    level = logging.getLogger("qwen_asr").level
    yield call
    logging.getLogger("qwen_asr").setLevel(level)


Command = Callable[..., subprocess.CompletedProcess[str]]


def test_the_package_runs_as_a_module() -> None:
    done = run(sys.executable, "-m", "qwen_asr", "--help", folder=ROOT)
    assert done.returncode == 0
    assert "usage: qwen-asr" in done.stdout


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The single error message of a command that failed."""
    assert done.returncode not in (0, None)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    _, _, sentence = lines[0].partition(": error: ")
    assert sentence.endswith(".")
    return sentence


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize("command", [[*SERVE, "--help"], [*QWEN_ASR, "--help"], [*QWEN_ASR, "transcribe", "--help"]])
def test_help_is_fast(command: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(*command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")
    # CPU seconds, because the machine may be busy.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("command", ["main", "run_subcommand", *cli.COMMANDS])
def test_help_imports_nothing_slow(command: str) -> None:
    function, arguments = ("run_subcommand", [command]) if command in cli.COMMANDS else (command, [])
    script = (
        f"import sys; from qwen_asr.cli.main import {function}\n"
        f"try: {function}({[*arguments, '--help']})\n"
        "except SystemExit: pass\n"
        "slow = {'torch', 'transformers', 'gradio', 'numpy', 'cryptography', 'av', 'websockets'}\n"
        "sys.exit(', '.join(slow & set(sys.modules)) or 0)"
    )
    done = run(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_help_has_a_description_and_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run_subcommand([command, "--help"])
    text = capsys.readouterr().out
    description = cli.COMMANDS[command].HELP
    assert description[1:] + "." in text
    assert f"\nexamples:\n  qwen-asr {command}" in text


def test_both_server_commands_have_the_same_options(capsys: pytest.CaptureFixture[str]) -> None:
    helps = []
    for arguments, command in (["--help"], cli.main), (["serve", "--help"], cli.run_subcommand):
        with pytest.raises(SystemExit) as done:
            command(arguments)
        assert done.value.code == 0
        helps.append(capsys.readouterr().out)
    options = [{word for word in text.replace("[", " ").split() if word.startswith("--")} for text in helps]
    assert options[0] == options[1]
    assert "--generate-self-signed-cert" in helps[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "web"], "--port was given 'web', but expects a whole number from 0 to 65535."),
        (["--port", "70000"], "--port was given 70000, but expects a whole number from 0 to 65535."),
        (["--vad-threshold", "nan"], "--vad-threshold was given nan, but expects a number from 0.01 to 0.99."),
        (["--device", "tpu"], "--device was given 'tpu', but expects one of auto, cuda, mps, cpu."),
        (["--host", ""], "--host was given '', but expects a text that is not empty."),
        (["--prot", "8000"], "Unrecognized arguments: --prot 8000: see app.py --help."),
        (["--max", "3"], "Unrecognized arguments: --max 3: see app.py --help."),
        (["--port"], "Argument --port: expected one argument: see app.py --help."),
    ],
)
def test_a_mistyped_option(arguments: list[str], sentence: str) -> None:
    done = run(*SERVE, *arguments)
    assert error_of(done) == sentence
    assert done.returncode == 2


def test_values_in_the_environment_are_checked_too() -> None:
    assert error_of(run(*SERVE, QWEN_ASR_DTYPE="int8")).startswith("--dtype was given 'int8'")
    assert error_of(run(*SERVE, QWEN_ASR_PORT="web")).startswith("QWEN_ASR_PORT was given 'web'")


@pytest.mark.parametrize("arguments", [["serve", "--default-language"], ["transcribe", "a.wav", "--language"]])
def test_an_unknown_language(qwen_asr: Command, arguments: list[str]) -> None:
    done = qwen_asr(*arguments, "Klingon")
    assert done.returncode == 2
    assert "Klingon" in error_of(done)
    assert "German" in error_of(done)


def test_a_port_in_use(taken_port: int, tmp_path: Path) -> None:
    done = run(*SERVE, "--asr-model-path", "demo", "--port", str(taken_port), folder=tmp_path)
    assert f"Port {taken_port} on 127.0.0.1 is in use" in error_of(done)


def test_a_certificate_of_the_user_is_left_untouched(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "qwen_asr_key.pem").write_text("mine\n")
    done = run(*SERVE, "--generate-self-signed-cert", "--host", "127.0.0.1", "--port", "0", folder=tmp_path)
    assert "qwen_asr_key.pem is not a readable key, and is left untouched" in error_of(done)
    assert (tmp_path / "certs" / "qwen_asr_key.pem").read_text() == "mine\n"


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


def test_each_of_several_bad_files_is_reported(bad_files: dict[str, Path]) -> None:
    done = run(*QWEN_ASR, "transcribe", *(str(path) for path in bad_files.values()))
    assert done.returncode == 2
    assert done.stdout == ""
    assert [name for name, line in zip(bad_files, done.stderr.splitlines(), strict=True) if name not in line] == []


@pytest.fixture
def speech(tmp_path: Path, program: Callable[[str], str]) -> Path:
    """A sentence of the demo's grammar, spoken by a synthetic voice."""
    path = tmp_path / "speech.wav"
    subprocess.run([program("espeak-ng"), "-w", path, "Turn on the kitchen light."], check=True)
    return path


@pytest.mark.parametrize("kind", ["empty folder", "other architecture", "broken configuration", "no weights"])
def test_a_folder_without_a_checkpoint(qwen_asr: Command, speech: Path, tmp_path: Path, kind: str) -> None:
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
    sentence = error_of(qwen_asr("transcribe", "--asr-model-path", folder, speech))
    assert str(folder) in sentence
    if kind == "other architecture":
        assert "whisper" in sentence


def test_a_named_model_is_never_replaced_by_another(speech: Path, tmp_path: Path) -> None:
    done = run(
        *QWEN_ASR, "transcribe", "--asr-model-path", "nobody/nothing", str(speech), HF_HOME=str(tmp_path / "hub")
    )
    assert "nobody/nothing" in error_of(done)


def test_transcribe_uses_the_demo_only_if_it_is_named(speech: Path, tmp_path: Path) -> None:
    done = run(*QWEN_ASR, "transcribe", str(speech), HF_HOME=str(tmp_path / "hub"), QWEN_ASR_MODEL_PATH="auto")
    assert done.returncode == 1
    assert error_of(done).startswith("No Qwen3-ASR weights are cached and none can be fetched")
    assert "--asr-model-path demo" in done.stderr
    done = run(*QWEN_ASR, "transcribe", str(speech), HF_HOME=str(tmp_path / "hub"), QWEN_ASR_MODEL_PATH="demo")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(
    "command", [[*SERVE, "--port", "0"], [*QWEN_ASR, "transcribe", "-"]], ids=["serve", "transcribe"]
)
def test_an_interrupt_at_startup_ends_the_process_quietly(command: list[str], seconds: float, tmp_path: Path) -> None:
    environment = {**os.environ, **OFFLINE, "QWEN_ASR_MODEL_PATH": "demo"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    pipes["preexec_fn"] = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # a background job of a shell ignores it
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:  # stdin stays open
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
        assert process.stderr
        stderr_text = process.stderr.read().decode()
    assert code in (0, -signal.SIGINT)  # 0: it was already serving
    assert "Traceback" not in stderr_text
    assert "Error" not in stderr_text


def test_an_ignored_interrupt_stays_ignored(qwen_asr: Command) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert "Klingon" in error_of(qwen_asr("transcribe", "a.wav", "--language", "Klingon"))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_server_reports_a_bad_checkpoint(tmp_path: Path) -> None:
    done = run(*SERVE, "--asr-model-path", str(tmp_path), "--port", "0", folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    stderr_text = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(stderr_text) == 1
    assert stderr_text[0].startswith(f"app.py: error: {tmp_path} is no checkpoint")


@pytest.mark.parametrize("form", FORMATS)
def test_transcribe_in_each_format(qwen_asr: Command, speech: Path, form: str) -> None:
    done = qwen_asr("transcribe", "--asr-model-path", "demo", "--device", "cpu", "--format", form, speech)
    assert (done.returncode, done.stderr) == (0, "")
    assert "kitchen" in done.stdout
    beginning = {"txt": "Turn", "srt": "1\n00:00:0", "vtt": "WEBVTT\n\n00:00:0", "json": "{\n"}[form]
    assert done.stdout.startswith(beginning)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_transcribe_from_a_pipe(speech: Path, tmp_path: Path, name: str) -> None:
    command = [*QWEN_ASR, "transcribe", "--asr-model-path", "demo", name]
    environment = {**os.environ, **OFFLINE}
    done = subprocess.run(command, env=environment, input=speech.read_bytes(), capture_output=True, check=True)
    assert done.stdout.startswith(b"Turn")
    done = subprocess.run(command, env=environment, input=b"", capture_output=True, check=False)
    expected = "Standard input" if name == "-" else "'/dev/stdin'"
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"error: {expected} is empty" in done.stderr.decode()


def test_transcribe_from_a_url(qwen_asr: Command, speech: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(speech.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        done = qwen_asr("transcribe", "--asr-model-path", "demo", f"{url}/speech.wav")
        missing = qwen_asr("transcribe", "--asr-model-path", "demo", f"{url}/missing.wav")
        server.shutdown()
    assert done.stdout.startswith("Turn")
    assert missing.returncode == 2
    assert f"{url}/missing.wav answered 404" in missing.stderr


def test_json_of_several_files_is_an_array(qwen_asr: Command, speech: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    options = ["--asr-model-path", "demo", "--format", "json"]
    done = qwen_asr("transcribe", *options, speech, tmp_path / "empty.wav", speech)
    assert done.returncode == 2
    both = json.loads(done.stdout)
    assert [transcript.pop("file") for transcript in both] == [str(speech)] * 2
    assert both == [json.loads(qwen_asr("transcribe", *options, speech).stdout)] * 2


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


@pytest.mark.parametrize("command", [cli.main, cli.run_subcommand])
def test_the_version(command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        command(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"qwen-asr-live {__version__}\n"


def test_a_mistyped_environment_variable_is_reported_once(speech: Path) -> None:
    done = run(*QWEN_ASR, "transcribe", "--asr-model-path", "demo", str(speech), QWEN_ASR_MODLE_PATH="x")
    assert done.returncode == 0
    assert done.stderr.count("QWEN_ASR_MODLE_PATH") == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_bad_file_does_not_prevent_the_others(qwen_asr: Command, speech: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    done = qwen_asr("transcribe", "--asr-model-path", "demo", empty, speech)
    assert done.returncode == 2
    assert done.stdout.startswith(f"{speech}: Turn")
    assert "empty.wav" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_output_pipe_is_not_an_error(speech: Path) -> None:
    command = [*QWEN_ASR, "transcribe", "--asr-model-path", "demo", str(speech)]
    process = subprocess.Popen(command, env={**os.environ, **OFFLINE}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    with process.stderr as stderr:
        stderr_text = stderr.read().decode()
    assert process.wait(timeout=60) == 141
    assert "Traceback" not in stderr_text
    assert "Exception" not in stderr_text

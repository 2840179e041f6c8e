"""The command line: help, options, the environment, signals, pipes and exit codes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from qwen_asr import __version__
from qwen_asr.cli import main as cli
from tests.support.commands import OFFLINE, QWEN_ASR, ROOT, SERVER, error_of, run

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_the_package_runs_as_a_module() -> None:
    done = run(sys.executable, "-m", "qwen_asr", "--help", folder=ROOT)
    assert done.returncode == 0
    assert "usage: qwen-asr" in done.stdout


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("command", [[*SERVER, "--help"], [*QWEN_ASR, "--help"], [*QWEN_ASR, "transcribe", "--help"]])
def test_help_shows_the_usage(command: list[str]) -> None:
    done = run(*command)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["main", "run_subcommand", "demo", "demo_streaming", "serve_model", *cli.COMMANDS])
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "web"], "--port was given 'web', but expects a whole number from 0 to 65535."),
        (["--port", "70000"], "--port was given 70000, but expects a whole number from 0 to 65535."),
        (["--vad-threshold", "nan"], "--vad-threshold was given nan, but expects a number from 0.01 to 0.99."),
        (["--device", "tpu"], "--device was given 'tpu', but expects one of auto, cuda, mps, cpu."),
        (["--host", ""], "--host was given '', but expects a text that is not empty."),
        (["--prot", "8000"], "Unrecognized arguments: --prot (did you mean --port?) 8000: see app.py --help."),
        (["--max", "3"], "Unrecognized arguments: --max (did you mean --max-queue?) 3: see app.py --help."),
        (["--port"], "Argument --port: expected one argument: see app.py --help."),
    ],
)
def test_a_mistyped_option(arguments: list[str], sentence: str) -> None:
    done = run(*SERVER, *arguments)
    assert error_of(done) == sentence
    assert done.returncode == 2


def test_a_mistyped_option_of_a_command_names_the_help_of_that_command(qwen_asr: Command) -> None:
    done = qwen_asr("transcribe", "a.wav", "--formt=srt")
    expected = "Unrecognized arguments: --formt=srt (did you mean --format?): see qwen-asr transcribe --help."
    assert error_of(done) == expected


def test_values_in_the_environment_are_checked_too() -> None:
    assert error_of(run(*SERVER, QWEN_ASR_DTYPE="int8")).startswith("QWEN_ASR_DTYPE was given 'int8'")
    assert error_of(run(*SERVER, QWEN_ASR_PORT="web")).startswith("QWEN_ASR_PORT was given 'web'")


@pytest.mark.parametrize("arguments", [["serve", "--default-language"], ["transcribe", "a.wav", "--language"]])
def test_an_unknown_language(qwen_asr: Command, arguments: list[str]) -> None:
    done = qwen_asr(*arguments, "Klingon")
    assert done.returncode == 2
    assert "Klingon" in error_of(done)
    assert "German" in error_of(done)


@pytest.mark.slow
def test_a_port_in_use(taken_port: int, tmp_path: Path) -> None:
    done = run(*SERVER, "--asr-model-path", "demo", "--port", str(taken_port), folder=tmp_path)
    assert f"Port {taken_port} on 127.0.0.1 is in use" in error_of(done)


@pytest.mark.slow
def test_a_certificate_of_the_user_is_left_untouched(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "qwen_asr_key.pem").write_text("mine\n")
    done = run(*SERVER, "--generate-self-signed-cert", "--host", "127.0.0.1", "--port", "0", folder=tmp_path)
    assert "qwen_asr_key.pem is not a readable key, and is left untouched" in error_of(done)
    assert (tmp_path / "certs" / "qwen_asr_key.pem").read_text() == "mine\n"


INTERRUPT_AT_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from qwen_asr.cli.main import run_subcommand
sys.exit(run_subcommand({arguments}))
"""


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["serve", "--port", "0"], "qwen_asr.web.app"),
        (["serve", "--port", "0"], "gradio"),
        (["transcribe", "-"], "transformers"),
        (["transcribe", "-"], "onnxruntime"),
        (["transcribe", "-"], "av"),
    ],
)
@pytest.mark.slow
def test_an_interrupt_at_startup_ends_the_process_quietly(arguments: list[str], module: str, tmp_path: Path) -> None:
    script = INTERRUPT_AT_IMPORT.format(arguments=arguments, module=module)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, **OFFLINE, "QWEN_ASR_MODEL_PATH": "demo"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


def test_an_ignored_interrupt_stays_ignored(qwen_asr: Command) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert "Klingon" in error_of(qwen_asr("transcribe", "a.wav", "--language", "Klingon"))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_the_server_reports_a_bad_checkpoint(tmp_path: Path) -> None:
    done = run(*SERVER, "--asr-model-path", str(tmp_path), "--port", "0", folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    stderr_text = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(stderr_text) == 1
    assert stderr_text[0].startswith(f"app.py: error: {tmp_path} is not a checkpoint")


@pytest.mark.parametrize("command", [cli.main, cli.run_subcommand])
def test_the_version(command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        command(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"qwen-asr-live {__version__}\n"


@pytest.mark.slow
def test_a_mistyped_environment_variable_is_reported_once(sentence: Path) -> None:
    done = run(*QWEN_ASR, "transcribe", "--asr-model-path", "demo", str(sentence), QWEN_ASR_MODLE_PATH="x")
    assert done.returncode == 0
    assert done.stderr.count("QWEN_ASR_MODLE_PATH") == 1
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_closed_output_pipe_is_not_an_error(sentence: Path) -> None:
    command = [*QWEN_ASR, "transcribe", "--asr-model-path", "demo", str(sentence)]
    process = subprocess.Popen(command, env={**os.environ, **OFFLINE}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    with process.stderr as stderr:
        stderr_text = stderr.read().decode()
    assert process.wait(timeout=60) == 141
    assert "Traceback" not in stderr_text
    assert "Exception" not in stderr_text

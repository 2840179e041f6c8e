"""Every mistake with certificates on the real command line: one sentence and exit code 1, before a port is opened."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from qwen_asr.config.config import Config
from qwen_asr.config.option_fields import add_options, from_options
from tests.support.certificates import HELD_PORTS, MISTAKES, PASSWORD, issue, pattern_of, put

ROOT = Path(__file__).parents[2]
# All cases in one process, so that Python starts only once.
RUN_ALL = """
import contextlib, io, json, os, socket, sys
from pathlib import Path
bound = []
class RecordingSocket(socket.socket):
    def bind(self, address):
        bound.append(address)
        super().bind(address)
socket.socket = RecordingSocket
sys.argv = ["app.py"]
from qwen_asr.cli.main import main
results = {}
for case in json.load(sys.stdin):
    os.environ.update(case["environ"])
    bound.clear()
    stderr, stdout = io.StringIO(), io.StringIO()
    if case["unprivileged"] and os.geteuid() == 0:
        os.seteuid(65534)
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
        code = main(case["arguments"])
    os.seteuid(os.getuid())
    heavy = sorted({"torch", "transformers", "gradio"} & set(sys.modules))
    results[case["name"]] = {
        "code": code, "stderr": stderr.getvalue(), "stdout": stdout.getvalue(), "heavy": heavy,
        "bound": bool(bound),
    }
    for name in case["environ"]:
        del os.environ[name]
json.dump(results, sys.stdout)
"""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "SPACE_ID"} | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of the command for each mistake."""
    cases = []
    for number, (name, mistake) in enumerate(MISTAKES.items()):
        folder = tmp_path_factory.mktemp(f"case{number}")
        above = [path for path in folder.parents if Path(tempfile.gettempdir()) in path.parents]
        if mistake.unprivileged and os.geteuid() == 0:
            for path in (folder, *above):
                path.chmod(path.stat().st_mode | 0o111)  # the unprivileged user has to reach the file
        arguments = [str(argument) for argument in mistake.make(folder)]
        if mistake.unprivileged and "443" in arguments and os.geteuid() == 0:
            for path in folder.iterdir():
                os.chown(path, 65534, -1)
        if "--port" not in arguments:
            arguments += ["--port", "0"]
        cases.append(
            {"name": name, "arguments": arguments, "environ": mistake.environ, "unprivileged": mistake.unprivileged}
        )
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL], input=json.dumps(cases), cwd=tmp_path_factory.mktemp("cwd"), env=ENVIRONMENT,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    for holder in HELD_PORTS:
        holder.close()
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def _skip_if_no_port_is_reserved(name: str) -> None:
    first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if name == "port 443" and (not first.exists() or int(first.read_text()) <= 443):
        pytest.skip("this system reserves no port below 1024")


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_in_one_sentence_before_a_port_is_opened(results: dict[str, Any], name: str) -> None:
    _skip_if_no_port_is_reserved(name)
    result = results[name]
    assert result["code"] == 1, result
    assert result["stdout"] == ""
    assert result["stderr"].startswith("app.py: error: ")
    assert result["stderr"].endswith(".\n")
    assert result["stderr"].count("\n") == 1, result["stderr"]
    assert re.search(MISTAKES[name].message, result["stderr"])
    assert result["bound"] == name.startswith("port ")
    assert result["heavy"] == []


def test_the_documentation_has_a_row_for_each_mistake(results: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "https.md").read_text(encoding="utf-8")
    table = text.partition("<!-- mistakes -->")[2].partition("<!-- /mistakes -->")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]
    sentences = {name: result["stderr"] for name, result in results.items()}
    for name, sentence in sentences.items():
        if name != "port 443":
            assert any(pattern_of(row).search(sentence) for row in rows), f"no row for {sentence}"
    unused = [row for row in rows if not any(pattern_of(row).search(sentence) for sentence in sentences.values())]
    assert [row for row in unused if "reserved for administrators" not in row] == []


def test_the_commands_in_the_documentation_parse() -> None:
    text = (ROOT / "docs" / "https.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", "").splitlines()
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser, Config)
    for line in filter(None, lines):
        words = [word for word in shlex.split(line, comments=True) if "=" not in word and word != "sudo"]
        if words[:2] == ["python", "app.py"]:
            config = from_options(Config, vars(parser.parse_args(words[2:])), {})
            assert config.tls == (not config.forwarded_allow_ips)
        elif words and words[0] not in ("cp", "nginx", "systemctl", "certbot", "pip"):
            assert words[:2] == ["qwen-asr", "cert"]
            assert words[2] in ("show", "check", "renew")


@pytest.mark.slow
def test_the_program_never_prompts_for_a_password(tmp_path: Path) -> None:
    made = issue()
    options = put(tmp_path, made.pem, made.key_pem(PASSWORD))
    leader, follower = pty.openpty()
    try:
        # A new session, whose terminal is the one that OpenSSL would prompt on.
        done = subprocess.run(
            [sys.executable, str(ROOT / "app.py"), *map(str, options), "--port", "0"], stdin=follower,
            start_new_session=True, capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT,
        )  # fmt: skip
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 1
    assert "no password was given" in done.stderr

"""Every mistake with certificates, on the real command line: one sentence, exit code 1, at once, no port taken."""

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
from qwen_asr.config.options import add_options, from_options
from tests.support.certificates import _HELD, MISTAKES, PASSWORD, issue, pattern_of, put

ROOT = Path(__file__).parents[2]
# All in one process, so that what Python needs to start is paid once. CPU seconds, since the machine may be busy.
RUN_ALL = """
import contextlib, io, json, os, socket, sys, time
from pathlib import Path
bound = []
class Watched(socket.socket):
    def bind(self, address):
        bound.append(address)
        super().bind(address)
socket.socket = Watched
sys.argv = ["app.py"]
from qwen_asr.cli.main import main
told = {}
for case in json.load(sys.stdin):
    os.environ.update(case["environ"])
    bound.clear()
    said, printed = io.StringIO(), io.StringIO()
    if case["as_nobody"] and os.geteuid() == 0:
        os.seteuid(65534)
    began = time.process_time()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
        code = main(case["arguments"])
    seconds = time.process_time() - began
    os.seteuid(os.getuid())
    heavy = sorted({"torch", "transformers", "gradio"} & set(sys.modules))
    told[case["name"]] = {
        "code": code, "stderr": said.getvalue(), "stdout": printed.getvalue(), "seconds": seconds, "heavy": heavy,
        "bound": bool(bound),
    }
    for name in case["environ"]:
        del os.environ[name]
json.dump(told, sys.stdout)
"""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "SPACE_ID"} | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command said to each mistake."""
    cases = []
    for number, (name, mistake) in enumerate(MISTAKES.items()):
        folder = tmp_path_factory.mktemp(f"case{number}")
        above = [path for path in folder.parents if Path(tempfile.gettempdir()) in path.parents]
        if mistake.as_nobody and os.geteuid() == 0:
            for path in (folder, *above):
                path.chmod(path.stat().st_mode | 0o111)  # nobody has to get as far as the file
        arguments = [str(argument) for argument in mistake.make(folder)]
        if mistake.as_nobody and "443" in arguments and os.geteuid() == 0:
            for path in folder.iterdir():
                os.chown(path, 65534, -1)
        if "--port" not in arguments:
            arguments += ["--port", "0"]
        cases.append({"name": name, "arguments": arguments, "environ": mistake.environ, "as_nobody": mistake.as_nobody})
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL], input=json.dumps(cases), cwd=tmp_path_factory.mktemp("cwd"), env=ENVIRONMENT,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    for holder in _HELD:
        holder.close()
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def _skip_where_all_ports_are_free(name: str) -> None:
    first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if name == "port 443" and (not first.exists() or int(first.read_text()) <= 443):
        pytest.skip("this system reserves no port below 1024")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_before_the_port_is_taken(told: dict[str, Any], name: str) -> None:
    _skip_where_all_ports_are_free(name)
    answer = told[name]
    assert answer["code"] == 1, answer
    assert answer["stdout"] == ""
    assert answer["stderr"].startswith("app.py: error: ")
    assert answer["stderr"].endswith(".\n")
    assert answer["stderr"].count("\n") == 1, answer["stderr"]
    assert re.search(MISTAKES[name].says, answer["stderr"])
    assert answer["bound"] == name.startswith("port ")
    assert answer["heavy"] == []
    assert answer["seconds"] < 2


def test_the_documents_have_a_row_for_each(told: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "https.md").read_text(encoding="utf-8")
    table = text.partition("<!-- mistakes -->")[2].partition("<!-- /mistakes -->")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]
    sentences = {name: answer["stderr"] for name, answer in told.items()}
    for name, sentence in sentences.items():
        if name != "port 443":
            assert any(pattern_of(row).search(sentence) for row in rows), f"no row says {sentence}"
    unused = [row for row in rows if not any(pattern_of(row).search(sentence) for sentence in sentences.values())]
    assert [row for row in unused if "reserved for administrators" not in row] == []


def test_the_commands_of_the_documents_are_understood() -> None:
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
        elif words and words[0] not in ("cp", "nginx", "systemctl", "certbot", "pip"):  # tests/tls/test_commands.py
            assert words[:2] == ["qwen-asr", "cert"]
            assert words[2] in ("show", "check", "renew")


def test_a_password_is_never_asked_for(tmp_path: Path) -> None:
    made = issue()
    options = put(tmp_path, made.pem, made.key_pem(PASSWORD))
    ours, theirs = pty.openpty()
    try:
        # A session of its own with that terminal as the one that programs ask on.
        done = subprocess.run(
            [sys.executable, str(ROOT / "app.py"), *map(str, options), "--port", "0"], stdin=theirs,
            start_new_session=True, capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT,
        )  # fmt: skip
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 1
    assert "no password was given" in done.stderr

"""Every command and every program in the documentation runs, in an environment without a hub."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

from qwen_asr.cli.main import COMMANDS
from tests.support.certificates import Chained
from tests.support.documents import PAGES, ROOT, SHIMS, Block, blocks, environment, make_shims, write_wave
from tests.support.https import served_certificate
from tests.support.network import free_ports
from tests.support.processes import until

READY_SECONDS = 240  # for a server on a busy machine
RUN_SECONDS = 280
PRELUDE = "import numpy\nblocks = numpy.array_split(numpy.load('samples.npy'), 20)\n"
"""What the programs of docs/python.md take for granted: `blocks` of audio."""

BLOCKS = [block for page in PAGES if page.exists() for block in blocks(page)]
BENCHMARKS = [block for block in BLOCKS if block.page == "docs/benchmarks.md" and block.how]


def marked(how: str) -> pytest.MarkDecorator:
    chosen = [
        pytest.param(block, id=block.name, marks=[pytest.mark.benchmark] if block in BENCHMARKS else [])
        for block in BLOCKS
        if block.how == how
    ]
    return pytest.mark.parametrize("block", chosen)


@pytest.fixture(scope="session")
def shims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the commands that an installation offers."""
    folder = tmp_path_factory.mktemp("shims")
    make_shims(folder)
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str]) -> Path:
    """The folder that the blocks run in, with the files that they name. They run in order: some need others' output."""
    folder = tmp_path_factory.mktemp("documents")
    np.save(folder / "samples.npy", write_wave(folder / "speech.wav"))
    film = ["-ac", "2", "-metadata:s:a:0", "language=eng", "film.mkv"]
    convert = [program("ffmpeg"), "-loglevel", "error", "-i", "speech.wav", "interview.m4a", *film]
    subprocess.run(convert, cwd=folder, check=True)
    (folder / "app.py").symlink_to(ROOT / "app.py")
    chained = Chained()
    (folder / "fullchain.pem").write_bytes(chained.leaf.pem + chained.middle.pem)
    for name, key in (
        ("privkey.pem", chained.leaf.key_pem()),
        ("encrypted.pem", chained.leaf.key_pem("…")),  # the password that docs/https.md shows
    ):
        (folder / name).write_bytes(key)
        (folder / name).chmod(0o600)
    return folder


@contextlib.contextmanager
def running(command: str, shims: Path, folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """A server, by its command as it stands, but for the port."""
    with subprocess.Popen(
        ["bash", "-c", f"{command} --port {port}" if "--port" in command else command],
        cwd=ROOT if command.startswith("scripts/") else folder,
        env=environment(shims, port),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def is_ready(port: int) -> bool:
    """Whether a server answers there, over HTTPS or HTTP. Other tests are about its certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for scheme in ("https", "http"):
        with contextlib.suppress(OSError, httpx.HTTPError):
            if httpx.get(f"{scheme}://localhost:{port}/readyz", verify=context, timeout=5).status_code == 200:
                return True
    return False


def is_trusted(port: int, certfile: Path) -> bool:
    """Whether the server there has the certificate in that file."""
    with contextlib.suppress(ssl.SSLCertVerificationError):
        served_certificate(port, ssl.create_default_context(cafile=str(certfile)))
        return True
    return False


def is_settled(port: int, process: subprocess.Popen[str]) -> bool:
    """Whether the server answers, or has ended."""
    return is_ready(port) or process.poll() is not None


@pytest.mark.slow
@marked("serve")
def test_a_server_starts_and_stops(block: Block, shims: Path, folder: Path) -> None:
    for command in block.text.splitlines():
        [port] = free_ports(1)
        with running(command, shims, folder, port) as process:
            assert until(partial(is_settled, port, process), READY_SECONDS)
            assert process.poll() is None, process.stdout and process.stdout.read()
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert f":{port}" in output
        assert "Traceback" not in output


def execute(block: Block, shims: Path, folder: Path, port: int, text: str) -> None:
    command = [sys.executable, "-c", PRELUDE + text] if block.language == "python" else ["bash", "-euc", text]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(shims, port),
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert block.prints in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@marked("once")
def test_a_block_runs(block: Block, shims: Path, folder: Path) -> None:
    lines = block.text.splitlines()
    text = "\n".join(f"{line} {block.extra}" for line in lines) if block.extra else block.text
    execute(block, shims, folder, 0, text)


@pytest.mark.slow
def test_every_benchmark_starts_and_has_the_options_that_are_shown(shims: Path, folder: Path) -> None:
    """`scripts/test-benchmarks` runs them."""
    assert {block.how for block in BENCHMARKS} == {"once"}
    shown = {tuple(shlex.split(f"{block.text} {block.extra}")[2:]) for block in BENCHMARKS}
    names = sorted({name for name, *_ in shown})
    assert len(names) > 5
    helps = f"""
import contextlib, io, json, runpy, sys
helps = {{}}
for name in {names}:
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__")
    helps[name] = said.getvalue()
print(json.dumps(helps))
"""
    done = subprocess.run(
        [sys.executable, "-c", helps], cwd=folder, env=environment(shims, 0), capture_output=True, text=True, check=True
    )
    explained = {name: set(OPTION.findall(text)) for name, text in json.loads(done.stdout).items()}
    for name, *arguments in shown:
        assert set(OPTION.findall(" ".join(arguments))) <= explained[name], name


@contextlib.contextmanager
def demo_server(command: str, shims: Path, folder: Path) -> Iterator[int]:
    """The port of a server with the demo model."""
    [port] = free_ports(1)
    with running(command, shims, folder, port) as process:
        assert until(partial(is_settled, port, process), READY_SECONDS)
        assert process.poll() is None, process.stdout and process.stdout.read()
        yield port


@pytest.fixture(scope="module")
def https_port(shims: Path, folder: Path) -> Iterator[int]:
    with demo_server("python app.py --generate-self-signed-cert", shims, folder) as port:
        yield port


@pytest.fixture(scope="module")
def http_port(shims: Path, folder: Path) -> Iterator[int]:
    with demo_server("python app.py", shims, folder) as port:
        yield port


@pytest.mark.slow
@marked("with server")
def test_a_block_runs_with_a_server(block: Block, shims: Path, folder: Path, https_port: int) -> None:
    text = block.text.replace("localhost:8000", f"localhost:{https_port}")
    # The default address of `qwen-asr stream` stands in no text.
    text = re.sub(r"^(qwen-asr stream)(?!.*--url)", rf"\1 --url wss://localhost:{https_port}", text, flags=re.MULTILINE)
    # A block before this one may have renewed the certificate; the server loads the new one within a second.
    assert until(partial(is_trusted, https_port, folder / "certs/qwen_asr_cert.pem"), 60)
    execute(block, shims, folder, https_port, text)


@pytest.mark.slow
@marked("with http server")
def test_a_block_runs_with_a_server_without_https(block: Block, shims: Path, folder: Path, http_port: int) -> None:
    execute(block, shims, folder, http_port, block.text.replace("localhost:8000", f"localhost:{http_port}"))


def test_pages_have_blocks_that_run() -> None:
    assert {block.how for block in BLOCKS} == {"", "serve", "once", "with server", "with http server"}
    assert len([block for block in BLOCKS if block.how]) > 10


# --- what the documentation names exists


def spans() -> list[tuple[str, str]]:
    """(page, code) of all code that the pages show: inline and in blocks."""
    found = []
    for page in PAGES:
        if page.exists():
            text = page.read_text(encoding="utf-8")
            name = page.relative_to(ROOT).as_posix()
            found += [(name, line) for block in blocks(page) for line in block.text.splitlines()]
            inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
            found += [(name, " ".join(code.split())) for code in inline]
    return found


@pytest.fixture(scope="module")
def known_options() -> set[str]:
    """Every option that one of our commands explains."""
    commands = [["app.py"], *(["-m", "qwen_asr", name] for name in COMMANDS)]
    commands += [["-m", "qwen_asr", "models", verb] for verb in ("list", "download", "verify", "remove")]
    for entry in ("demo", "demo_streaming", "serve_model"):
        commands.append(["-c", f"import sys, qwen_asr_live; sys.exit(qwen_asr_live.{entry}())"])
    helps = [
        subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
        for command in commands
    ]
    return {option for done in helps for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", done.stdout)}


OURS = ("python app.py", "scripts/run", "qwen-asr")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def test_every_option_that_a_page_names_exists(known_options: set[str]) -> None:
    # An option of another program stands with that program on the same page.
    others = {
        (page, option)
        for page, code in spans()
        if not code.startswith((*OURS, "--"))
        for option in OPTION.findall(code)
    }
    named = [
        (page, option)
        for page, code in spans()
        if code.startswith((*OURS, "--"))
        for option in OPTION.findall(code.split("|")[0])
        if option not in known_options and not (code.startswith("--") and (page, option) in others)
    ]
    assert named == []


def test_every_subcommand_that_a_page_names_exists() -> None:
    words = {
        (page, shlex.split(code)[1])
        for page, code in spans()
        if re.match(r"qwen-asr [a-z]", code) and code.count("'") % 2 == 0
    }
    assert {word for _, word in words} <= set(COMMANDS)


def test_every_link_between_pages_leads_somewhere() -> None:
    wrong = []
    for page in PAGES:
        if not page.exists():
            continue
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                wrong.append(f"{page.name}: {target}")
    assert wrong == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md" and page.name not in index
    ] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 160


def test_the_commands_of_an_installation_are_those_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    scripts = re.search(r"\[project.scripts\]\n(.*?)\n\n", text, re.DOTALL)
    assert scripts
    assert {line.split(" = ")[0] for line in scripts[1].splitlines()} == set(SHIMS) - {"python"}


@pytest.mark.slow
def test_a_model_that_is_named_is_never_replaced(shims: Path, folder: Path) -> None:
    command = "python app.py --generate-self-signed-cert --asr-model-path Qwen/Qwen3-ASR-0.6B"
    with running(command, shims, folder, *free_ports(1)) as process:
        output, _ = process.communicate(timeout=READY_SECONDS)
    assert process.returncode == 1
    assert "Qwen/Qwen3-ASR-0.6B is not in the cache" in output
    assert "Traceback" not in output

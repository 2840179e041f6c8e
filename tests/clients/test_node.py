"""Programs for Node: OpenAI's package over REST and on the realtime API, and the AI SDK of Vercel."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.clients import ClientServer, Speech, words

FOLDER = Path(__file__).parent / "node"


def node(script: str, server: ClientServer, *arguments: str | Path) -> str:
    """Runs a script to its end; returns what it prints."""
    done = subprocess.run(
        ["node", script, server.api, server.key or "any", *arguments],
        cwd=FOLDER,
        env={**os.environ, **server.environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("which", ["server", "secure_server"])
def test_openai_over_rest(which: str, request: pytest.FixtureRequest, speech: Speech) -> None:
    server: ClientServer = request.getfixturevalue(which)
    answers = json.loads(node("rest.mjs", server, speech.wav(16_000)))
    assert words(answers["json"]["text"]) == speech.words
    assert words(answers["verbose"]["text"]) == speech.words
    assert answers["verbose"]["language"] == "english"
    assert words(" ".join(segment["text"] for segment in answers["verbose"]["segments"])) == speech.words
    assert " --> " in answers["srt"]
    assert words(answers["streamed"]) == speech.words


@pytest.fixture
def samples(speech: Speech, tmp_path: Path) -> Path:
    """A file of samples at 24 kHz, without a header."""
    path = tmp_path / "samples.pcm"
    path.write_bytes(speech.pcm(24_000))
    return path


@pytest.mark.parametrize("how", ["intent", "model"])
def test_openai_realtime(how: str, secure_server: ClientServer, speech: Speech, samples: Path) -> None:
    """It connects with wss:// always, whatever the base URL says."""
    assert words(node("realtime.mjs", secure_server, samples, how)) == speech.words


def test_the_ai_sdk(server: ClientServer, speech: Speech) -> None:
    answer = json.loads(node("ai_sdk.mjs", server, speech.wav(16_000)))
    assert words(answer["text"]) == speech.words

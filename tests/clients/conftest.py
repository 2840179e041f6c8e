"""Our server, started as users start it, and speech to send to it. The tests here are other people's programs.

They run in `.venv-clients`, which `scripts/clients` makes; the server runs in `.venv`. A program that is not installed
is an error, never a skip.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clients import ClientServer, Speech, serving

KEY = "a-key-of-the-tests"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientServer]:
    """A server over plain HTTP that asks for no key."""
    with serving(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="session")
def secure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientServer]:
    """A server over HTTPS that asks for a key."""
    options = ("--generate-self-signed-cert", "--host", "127.0.0.1")
    with serving(tmp_path_factory.mktemp("secure"), *options, key=KEY) as started:
        yield started


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Speech:
    """One sentence."""
    return Speech("Turn on the kitchen light.", tmp_path_factory.mktemp("speech"))

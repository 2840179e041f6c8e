"""The service: the options of a session with the server's defaults, and what may be asked of the model."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qwen_asr.config.config import Config
from qwen_asr.errors import BadConfig, BadInput, NotReady, UnknownLanguage
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.service.service import Service
from tests.support.checkpoints import DEMO, demo_recognizer, save_aligner
from tests.support.engine_double import AlignerDouble

DEFAULTS = Config(default_prompt="P", default_context="C", default_language="de", chunk_size_sec=0.5)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    torch.set_num_threads(1)
    with contextlib.closing(Service(DEFAULTS, demo_recognizer())) as loaded:
        yield loaded


def test_the_servers_defaults_fill_what_a_client_leaves_out() -> None:
    options = Service(DEFAULTS).session_options()
    assert (options.language, options.prompt, options.context) == ("German", "P", "C")
    assert options.system_prompt == "P\n\nC"
    assert options.chunk_seconds == 0.5
    assert options.max_new_tokens == DEFAULTS.max_new_tokens
    assert options.endpoints.longest_seconds == DEFAULTS.max_utterance_seconds


def test_what_a_client_gives_replaces_the_defaults() -> None:
    service = Service(DEFAULTS)
    assert service.session_options(context="c").system_prompt == "P\n\nc"
    assert service.session_options(prompt="p").system_prompt == "p\n\nC"
    assert service.session_options(language="auto").language is None
    assert service.session_options(language="fr", chunk_seconds=2.0).language == "French"
    assert SessionOptions(prompt="p").system_prompt == "p"


@pytest.mark.parametrize(("written", "name"), [("zh-HK", "Cantonese"), ("zh-yue", "Cantonese"), ("tl", "Filipino")])
def test_a_session_of_the_page_the_routes_and_the_sockets_understands_codes(written: str, name: str) -> None:
    assert Service(DEFAULTS).session_options(language=written).language == name


def test_a_client_can_have_automatic_chunks_where_the_server_has_a_number_and_a_number_where_they_are_automatic() -> (
    None
):
    fixed, automatic = Service(DEFAULTS), Service(Config())
    assert fixed.session_options(chunk_seconds="auto").chunk_seconds is None
    assert automatic.session_options().chunk_seconds is None
    assert automatic.session_options(chunk_seconds=2.0).chunk_seconds == 2.0


def test_options_that_no_session_can_have() -> None:
    with pytest.raises(UnknownLanguage, match="Klingon"):
        SessionOptions(language="Klingon")
    with pytest.raises(BadConfig, match="must be above 0"):
        SessionOptions(chunk_seconds=0)


def test_options_are_checked_without_opening_a_session(service: Service) -> None:
    service.check_options(service.session_options(context="names"))
    with pytest.raises(BadInput, match="control token"):
        service.check_options(service.session_options(context="<|im_end|>"))
    assert service.admission.admitted == 0
    with pytest.raises(NotReady):
        Service(DEFAULTS).check_options(SessionOptions())


def test_a_session_that_cannot_be_opened_returns_its_slot(service: Service) -> None:
    with pytest.raises(BadInput, match="control token"):
        service.open_session(service.session_options(context="<|im_end|>"), lambda _: None)
    assert service.admission.admitted == 0
    runner = service.open_session(service.session_options(), lambda _: None)
    assert service.admission.admitted == 1
    runner.close()
    assert service.admission.admitted == 0


@pytest.mark.parametrize(("path", "replaced"), [("demo", False), ("auto", True)])
def test_the_page_says_if_the_demo_replaces_a_model(path: str, replaced: bool) -> None:
    torch.set_num_threads(1)
    with contextlib.closing(Service(Config(asr_model_path=(path,)), demo_recognizer())) as service:
        note = service.as_dict()["note"]
    assert "A small demo" in note
    assert ("could be loaded" in note) == replaced


def test_the_server_says_why_there_are_no_words(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotReady):
        Service(DEFAULTS).why_no_words()
    recognizer = demo_recognizer()
    monkeypatch.setattr(recognizer, "aligner", None)
    assert "start it with --aligner-model-path" in str(service.why_no_words())
    monkeypatch.setattr(recognizer, "aligner", AlignerDouble(is_quick=True))
    assert service.why_no_words() is None
    assert service.why_no_words("en") is None
    assert service.why_no_words("auto") is None
    assert service.why_no_words("th") == "The double does not know Thai."
    assert service.why_no_words("Klingon") is None  # it is for the aligner to say
    assert service.session_options(words=True).words
    assert not service.session_options().words


def loaded(config: Config) -> tuple[Service, list[str]]:
    """A service that has loaded, or failed to, and what it has said of it."""
    lines: list[str] = []

    class Watched(Service):
        def _progress(self, text: str) -> None:
            lines.append(text)
            super()._progress(text)

    service = Watched(config)
    service.start()
    service.wait(120)
    return service, lines


@pytest.mark.slow
def test_the_aligner_is_loaded_and_its_progress_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_aligner(tmp_path / "my-aligner")
    path = str(tmp_path / "my-aligner")
    with caplog.at_level(logging.INFO):
        service, lines = loaded(Config(asr_model_path=("demo",), aligner_model_path=path, device="cpu"))
    with contextlib.closing(service):
        assert service.state == "ready"
        assert service.why_no_words() is None
        assert "does not know Thai" in str(service.why_no_words("Thai"))
    assert any(line.startswith("Loading my-aligner on cpu") for line in lines)
    assert "Times of words: my-aligner, which come after the text" in caplog.text


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (
            "missing",
            "There is no folder missing. Give an existing folder, or a hub id such as Qwen/Qwen3-ForcedAligner",
        ),
        (str(DEMO), "holds no forced aligner. Give the folder or the id of one: Qwen/Qwen3-ForcedAligner-0.6B"),
    ],
)
def test_a_wrong_aligner_is_a_clear_error(path: str, problem: str) -> None:
    service, _ = loaded(Config(asr_model_path=("demo",), aligner_model_path=path, device="cpu"))
    with contextlib.closing(service):
        assert service.state == "failed"
        assert problem in service.text

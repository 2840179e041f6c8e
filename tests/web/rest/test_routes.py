"""The REST routes over HTTPS, called with the openai package and with plain HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import srt
import torch
import webvtt
from av.stream import Disposition
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent
from prometheus_client import CollectorRegistry

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.config.config import Config
from qwen_asr.config.limits import RETRY_AFTER_SECONDS, Limits, ShutdownLimits, UploadLimits
from qwen_asr.live.transcript import join_texts
from qwen_asr.service.service import Service
from qwen_asr.tls.self_signed import ensure_self_signed
from qwen_asr.web.rest.transcriptions import Transcriptions
from tests.support.aligners import aligned_by, even_words
from tests.support.browser import serving
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.engine_double import AlignerDouble
from tests.support.media import Track, container, placed
from tests.support.processes import until
from tests.support.rest_client import Clients, form, offline, open_in, speech, wav

pytestmark = [
    # Raised in Gradio's threads: it uses an option of pandas that is deprecated, and does not close its event loops.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
FORMATS = ["json", "text", "srt", "verbose_json", "vtt"]
ROUTE = "/v1/audio/transcriptions"
MINUTES_OF_SPEECH = 12
"""The length of `speech(60)`: far more than is recognized before a test has done its work."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    ensure_self_signed(folder)
    return folder


@pytest.fixture(scope="module")
def clients(certificates: Path) -> Iterator[Clients]:
    """Clients of one server with the demo checkpoint, for tests that do not change its state."""
    torch.set_num_threads(1)
    with serving(Service(Config(host="127.0.0.1"), demo_recognizer()), certificates) as served:
        yield Clients(served, certificates)


@contextlib.contextmanager
def limited(certificates: Path, limits: Limits, config: Config | None = None) -> Iterator[Clients]:
    """Clients of another server, with these limits."""
    service = Service(config or Config(host="127.0.0.1"), demo_recognizer(), limits=limits)
    with serving(service, certificates) as served:
        yield Clients(served, certificates)


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the server's temporary files, empty at first."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def ask(client: openai.OpenAI, recording: bytes | None = None, **options: Any) -> Any:
    file = ("speech.wav", speech() if recording is None else recording)
    return client.audio.transcriptions.create(file=file, **{"model": "whisper-1", **options})


# --- the answers


def check_verbose(answer: Any, recording: bytes) -> None:
    """Each segment equals the offline transcription of its samples, and the text is the joined segments."""
    assert len(answer.segments) == 3
    for number, segment in enumerate(answer.segments):
        assert segment.id == number
        assert 0 <= segment.start < segment.end <= answer.duration
        assert segment.text == offline(recording, segment.start, segment.end)
    assert answer.text == join_texts(segment.text for segment in answer.segments)
    assert answer.duration == (len(recording) - 44) / 2 / SAMPLE_RATE  # a WAV file's header has 44 bytes
    assert answer.language == "english"
    assert answer.usage.seconds == answer.duration


def check_formats(answers: dict[str, Any], recording: bytes) -> None:
    """All formats have the same texts and times."""
    verbose = answers["verbose_json"]
    check_verbose(verbose, recording)
    assert answers["json"].text == verbose.text
    assert answers["text"] == verbose.text + "\n"
    cues = list(srt.parse(answers["srt"]))
    captions = webvtt.from_buffer(io.StringIO(answers["vtt"])).captions
    for cue, caption in zip(cues, captions, strict=True):
        assert cue.content == caption.text
        assert (
            abs(cue.start.total_seconds() - caption.start_in_seconds - caption.start_time.milliseconds / 1000) < 0.002
        )
    for segment in verbose.segments:
        inside = [cue for cue in cues if segment.start - 0.002 < cue.start.total_seconds() < segment.end]
        assert " ".join(cue.content for cue in inside).replace("\n", " ") == segment.text
        assert inside[-1].end.total_seconds() < segment.end + 0.002
    assert " ".join(cue.content for cue in cues).replace("\n", " ") == verbose.text


@pytest.mark.slow
def test_every_format_equals_offline_transcription(clients: Clients) -> None:
    with clients.sync() as client:
        check_formats({format: ask(client, response_format=format) for format in FORMATS}, speech())


@pytest.mark.slow
def test_every_format_with_asyncio(clients: Clients) -> None:
    async def all_at_once() -> dict[str, Any]:
        async with clients.asynchronous() as client:
            create: Any = client.audio.transcriptions.create
            asked = [create(file=speech(), model="any", response_format=format) for format in FORMATS]
            return dict(zip(FORMATS, await asyncio.gather(*asked), strict=True))

    check_formats(asyncio.run(all_at_once()), speech())


def check_events(events: list[Any], text: str) -> None:
    *deltas, done = events
    assert len(deltas) == 3
    assert all(isinstance(event, TranscriptionTextDeltaEvent) for event in deltas)
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert "".join(event.delta for event in deltas) == done.text == text


@pytest.mark.slow
def test_the_streamed_deltas_add_up_to_the_text(clients: Clients) -> None:
    with clients.sync() as client:
        text = ask(client).text
        check_events(list(ask(client, stream=True)), text)

    async def streamed() -> list[Any]:
        async with clients.asynchronous() as client:
            create: Any = client.audio.transcriptions.create
            return [event async for event in await create(file=speech(), model="any", stream=True)]

    check_events(asyncio.run(streamed()), text)


@pytest.mark.slow
def test_events_come_while_the_rest_is_still_to_be_recognized(clients: Clients) -> None:
    with clients.sync() as client:
        events = ask(client, speech(12), stream=True)
        next(events)
        with clients.plain() as plain:
            assert plain.get("/healthz").status_code == 200
        rest = list(events)
    assert len(rest) == 3 * 12  # with `transcript.text.done`


@pytest.mark.slow
def test_language_and_prompt_reach_the_model(clients: Clients) -> None:
    with clients.sync() as client:
        answer = ask(client, response_format="verbose_json", language="en", prompt="kitchen light", temperature=0.0)
        granular = ask(client, response_format="verbose_json", timestamp_granularities=["segment"])
    assert answer.language == "english"
    assert len(answer.segments) == len(granular.segments) == 3


@pytest.mark.slow
def test_words_with_the_openai_package(clients: Clients) -> None:
    asked: Any = {"response_format": "verbose_json", "timestamp_granularities": ["word", "segment"]}
    for aligner in (AlignerDouble(is_quick=True), AlignerDouble(is_quick=False)):
        with aligned_by(demo_recognizer(), aligner), clients.sync() as client:
            answer = ask(client, **asked)
        expected = [
            word | {"word": word["word"].strip(".")}
            for segment in answer.segments
            for word in even_words(segment.text, segment.start, segment.end)
        ]
        assert [word.to_dict() for word in answer.words] == expected
        assert answer.warnings == []
    with aligned_by(demo_recognizer(), None), clients.sync() as client:
        answer = ask(client, **asked)
    assert answer.words is None
    assert len(answer.segments) == 3
    [warning] = answer.warnings
    assert warning.startswith("words: ")
    assert "--aligner-model-path" in warning


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "is_quick", "clips"),
    [
        ({"response_format": "srt"}, True, 3),
        ({"response_format": "vtt", "stream": True}, True, 3),
        ({"response_format": "srt"}, False, 0),
        ({"response_format": "verbose_json"}, True, 0),
        ({"timestamp_granularities": ["word"]}, True, 0),  # json
    ],
)
def test_words_are_found_only_for_what_uses_them(
    clients: Clients, fields: dict[str, Any], is_quick: bool, clips: int
) -> None:
    aligner = AlignerDouble(is_quick=is_quick)
    with aligned_by(demo_recognizer(), aligner), clients.sync() as client:
        answer = ask(client, **fields)
        if "stream" in fields:
            list(answer)
    assert sum(map(len, aligner.batches)) == clips


@pytest.mark.slow
def test_silence_has_no_text(clients: Clients) -> None:
    silence = wav(np.zeros(3 * SAMPLE_RATE, np.float32))
    with clients.sync() as client:
        verbose = ask(client, silence, response_format="verbose_json", language="German")
        assert (verbose.text, verbose.segments, verbose.duration, verbose.language) == ("", [], 3.0, "german")
        assert ask(client, silence, response_format="srt") == ""
        assert ask(client, silence, response_format="text") == "\n"
        [done] = ask(client, silence, stream=True)
        assert done.text == ""


@pytest.mark.slow
def test_a_long_file_waits_for_the_recognizer(certificates: Path) -> None:
    # Little audio may be decoded ahead and utterances are short, so decoding has to wait again and again.
    limits = Limits(upload=UploadLimits(ahead_seconds=0.1))
    config = Config(host="127.0.0.1", max_utterance_seconds=6)
    with limited(certificates, limits, config) as clients, clients.sync() as client:
        answer = ask(client, speech(4), response_format="verbose_json")
    assert len(answer.segments) >= 3 * 4
    for segment in answer.segments[:3]:
        assert segment.text == offline(speech(4), segment.start, segment.end)


# --- models and probes


def test_the_loaded_model_is_listed(clients: Clients) -> None:
    with clients.sync() as client:
        [model] = client.models.list().data
        assert model.id == "demo"
        assert client.models.retrieve("demo") == model
        with pytest.raises(openai.NotFoundError, match="'Qwen/other' is not served here; 'demo' is") as failure:
            client.models.retrieve("Qwen/other")
    assert failure.value.code == "model_not_found"
    assert failure.value.param == "model"


def test_probes(clients: Clients) -> None:
    with clients.plain() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        ready = client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "text": "Ready"})


@pytest.mark.slow
def test_while_it_loads_the_server_is_healthy_but_not_ready(certificates: Path) -> None:
    with serving(Service(Config(host="127.0.0.1")), certificates) as served:
        clients = Clients(served, certificates)
        with clients.plain() as client:
            assert client.get("/healthz").status_code == 200
            ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["text"]) == (503, "Loading …")
        with clients.sync() as openai_client:
            for attempt in (openai_client.models.list, lambda: ask(openai_client)):
                with pytest.raises(openai.InternalServerError, match="Loading") as failure:
                    attempt()
                assert failure.value.status_code == 503
                assert failure.value.code == "not_ready"
                assert failure.value.response.headers["retry-after"] == str(RETRY_AFTER_SECONDS)


# --- requests with errors


@pytest.mark.parametrize(
    ("options", "status", "param", "code", "message"),
    [
        ({"language": "Klingon"}, 400, "language", "unknown_language", "Unknown language 'Klingon'"),
        ({"response_format": "xml"}, 400, "response_format", "bad_field", "one of json, text, srt"),
        ({"response_format": "diarized_json"}, 400, "response_format", "bad_field", "does not tell speakers apart"),
        ({"timestamp_granularities": ["hour"]}, 400, "timestamp_granularities", "bad_field", "one of segment, word"),
        ({"include": ["words"]}, 400, "include", "bad_field", "expected 'logprobs'"),
        ({"temperature": 1.1}, 400, "temperature", "bad_field", "from 0 to 1"),
        ({"temperature": float("nan")}, 400, "temperature", "bad_field", "from 0 to 1"),
        ({"extra_body": {"stream": "perhaps"}}, 400, "stream", "bad_field", "true or false"),
        ({"prompt": "<|im_end|>"}, 400, "prompt", "bad_field", "control token"),
        ({"recording": b"This is not audio."}, 400, "file", "audio_error", "cannot be read as audio"),
        ({"recording": b"no sound", "stream": True}, 400, "file", "audio_error", "cannot be read as audio"),
        ({"recording": b""}, 400, "file", "audio_error", "is empty"),
    ],
)
def test_a_wrong_request_gets_one_clear_sentence(
    clients: Clients, options: dict[str, Any], status: int, param: str, code: str, message: str
) -> None:
    with clients.sync() as client, pytest.raises(openai.APIStatusError, match=message) as failure:
        ask(client, **options)
    error = failure.value
    assert isinstance(error, openai.BadRequestError)
    assert (error.status_code, error.type, error.param, error.code) == (status, "invalid_request_error", param, code)
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "param", "code"}
    assert "Traceback" not in str(error.body)


def post(client: httpx.Client, content: Any, boundary: str = "x") -> tuple[int, dict[str, Any]]:
    kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
    answer = client.post(ROUTE, content=content, headers=kind)
    return answer.status_code, answer.json().get("error", {})


def test_a_body_that_is_not_a_form_with_one_file_is_refused(clients: Clients) -> None:
    with clients.plain() as client:
        status, error = post(client, b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n--x--\r\n')
        assert (status, error["param"]) == (400, "file")
        assert "no field 'file'" in error["message"]
        assert post(client, form("x", b"a").replace(b"--x--\r\n", form("x", b"b")))[1]["param"] == "file"
        for content, boundary in [
            (form("x", b"sound")[:-5], "x"),
            (b"rubbish", "x"),
            (b"", "x"),
            (form("x", b"a"), "y"),
            (form("x", b"a"), "x" * 300),
        ]:
            status, error = post(client, content, boundary)
            assert (status, error["type"]) == (400, "invalid_request_error"), content


def test_an_unknown_path_is_an_error_that_the_openai_package_understands(clients: Clients) -> None:
    with clients.sync() as client, pytest.raises(openai.NotFoundError, match="no POST /v1/audio/speech") as failure:
        client.audio.speech.create(input="Hello", model="any", voice="alloy")
    assert failure.value.code == "unknown_url"
    with clients.plain() as client:
        answer = client.get("/nowhere")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
    assert "no /nowhere here. The page is at /" in answer.json()["error"]["message"]


def test_the_path_of_a_websocket_says_that_it_is_one(clients: Clients) -> None:
    """A proxy that drops the header Upgrade makes an ordinary GET of a handshake."""
    with clients.plain() as client:
        for path in ("/ws/asr", "/v1/realtime", "/api-ws/v1/realtime"):
            answer = client.get(path)
            assert answer.status_code == 426, path
            assert answer.headers["Upgrade"] == "websocket"
            assert "a proxy in front" in answer.json()["error"]["message"]


def test_a_translation_is_refused_with_what_to_do_instead(clients: Clients) -> None:
    with clients.sync() as client, pytest.raises(openai.BadRequestError, match="send the same request to") as failure:
        client.audio.translations.create(file=("a.wav", speech()), model="any")
    assert (failure.value.code, failure.value.param) == ("unsupported_operation", "model")
    assert failure.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", ROUTE, "POST"),
        ("PUT", ROUTE, "POST"),
        ("GET", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/demo", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("POST", "/readyz", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_answered_with_405(clients: Clients, method: str, path: str, allowed: str) -> None:
    with clients.plain() as client:
        response = client.request(method, path, content=b"a body" if method != "GET" else None)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    assert response.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/demo", "/healthz", "/readyz", "/metrics", "/openapi.json"])
def test_head_is_answered_like_get(clients: Clients, path: str) -> None:
    with clients.plain() as client:
        response = client.head(path)
        assert response.status_code == client.get(path).status_code == 200
    assert response.content == b""


def test_the_openapi_document_is_that_of_the_routes(clients: Clients) -> None:
    with clients.plain() as client:
        document = client.get("/openapi.json").json()
    assert set(document["paths"]) > {ROUTE, "/v1/models", "/healthz"}


# --- limits


@pytest.mark.slow
def test_the_size_limit_of_a_file_is_exact(certificates: Path, uploads: Path) -> None:
    limits = Limits(upload=UploadLimits(file_bytes=len(speech())))
    with limited(certificates, limits) as clients, clients.sync() as client:
        assert ask(client).text
        with pytest.raises(openai.APIStatusError, match=f"over {len(speech())} bytes") as failure:
            ask(client, speech() + b"a")
    assert (failure.value.status_code, failure.value.code) == (413, "too_large")
    assert list(uploads.iterdir()) == []
    assert until(lambda: open_in(uploads) == 0)


@pytest.mark.slow
def test_the_answer_reaches_a_client_that_is_still_uploading(certificates: Path) -> None:
    def pieces() -> Iterator[bytes]:  # without a Content-Length
        yield form("x", bytes(2000))
        yield from [bytes(1 << 16)] * 64

    with limited(certificates, Limits(upload=UploadLimits(file_bytes=1000))) as clients:
        # More than all buffers on the way hold, so that the client is still sending when it is refused.
        with clients.sync() as client, pytest.raises(openai.APIStatusError, match="over 1000 bytes") as failure:
            ask(client, bytes(16 << 20))
        assert failure.value.status_code == 413
        with clients.plain() as plain:
            assert post(plain, pieces())[0] == 413


@pytest.mark.slow
def test_the_form_without_its_file_has_a_size_limit(certificates: Path) -> None:
    overhead = len(form("x", b"", prompt=""))
    limits = Limits(upload=UploadLimits(form_bytes=overhead + 500))
    with limited(certificates, limits) as clients, clients.plain() as client:
        passed = post(client, form("x", b"no sound", prompt=500 * "a"))
        assert (passed[0], passed[1]["code"]) == (400, "audio_error")  # the form passed, the file did not
        status, error = post(client, form("x", b"no sound", prompt=501 * "a"))
    assert (status, error["code"]) == (413, "too_large")


@pytest.mark.slow
def test_the_length_of_a_file_is_exact(certificates: Path) -> None:
    config = Config(host="127.0.0.1", max_file_seconds=1)
    with limited(certificates, Limits(), config) as clients, clients.sync() as client:
        ask(client, wav(np.zeros(SAMPLE_RATE, np.float32)))
        with pytest.raises(openai.APIStatusError, match=r"longer than 1 seconds.*split it") as failure:
            ask(client, wav(np.zeros(SAMPLE_RATE + 1, np.float32)))
    assert (failure.value.status_code, failure.value.code) == (413, "too_large")


# --- concurrent requests, and clients that disconnect


class SlowUpload:
    """An upload whose second half is sent once `go_on` is set."""

    def __init__(self, recording: bytes) -> None:
        self.whole = form("x", recording, response_format="json")
        self.go_on = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        yield self.whole[: len(self.whole) // 2]
        assert self.go_on.wait(60)
        yield self.whole[len(self.whole) // 2 :]


def timeouts(clients: Clients) -> float:
    """How many uploads the server has ended because they stalled."""
    registry = CollectorRegistry()
    registry.register(clients.service.instruments)
    return registry.get_sample_value("qwen_asr_errors_total", {"code": "TimedOut"}) or 0.0


def post_slowly(client: httpx.Client, slow: SlowUpload) -> httpx.Response:
    return client.post(ROUTE, content=iter(slow), headers={"content-type": "multipart/form-data; boundary=x"})


@pytest.mark.slow
def test_uploads_block_neither_each_other_nor_the_probes(clients: Clients, uploads: Path) -> None:
    with clients.sync() as client, clients.plain() as plain, ThreadPoolExecutor(2) as pool:
        text = ask(client).text
        slow = SlowUpload(speech())
        half_sent = pool.submit(post_slowly, plain, slow)
        assert until(lambda: open_in(uploads) == 1)
        assert list(uploads.iterdir()) == []  # the file has no name, so nothing can be left behind
        long = pool.submit(lambda: [ask(client, speech(8)).text])
        assert until(lambda: open_in(uploads) == 2)
        assert ask(client).text == text
        assert plain.get("/healthz").status_code == 200
        assert not half_sent.done()
        slow.go_on.set()
        assert half_sent.result(60).json()["text"] == text
        assert long.result(60)
    assert until(lambda: open_in(uploads) == 0)


@pytest.mark.slow
def test_what_one_address_uploads_at_once_is_limited(certificates: Path, uploads: Path) -> None:
    slow = SlowUpload(speech())
    fits, too_long = (form("x", speech(), prompt=length * "a") for length in (10, 11))
    limits = Limits(upload=UploadLimits(address_bytes=len(slow.whole) // 2 + len(fits)))
    with limited(certificates, limits) as clients, clients.plain() as client, ThreadPoolExecutor(1) as pool:
        half_sent = pool.submit(post_slowly, client, slow)
        assert until(lambda: open_in(uploads) == 1)
        for whole in (True, False):  # what is announced counts before it arrives, and what is not when it does
            assert post(client, fits if whole else iter([fits]))[0] == 200
            status, error = post(client, too_long if whole else iter([too_long]))
            assert (status, error["code"]) == (429, "limit_exceeded")
        slow.go_on.set()
        assert half_sent.result(60).status_code == 200
        assert post(client, too_long)[0] == 200  # what the others held is given back
    assert until(lambda: open_in(uploads) == 0)


@pytest.mark.slow
def test_the_audio_of_the_files_of_one_address_is_limited(certificates: Path) -> None:
    limits = Limits(upload=UploadLimits(address_seconds=2.0))
    service = Service(Config(host="127.0.0.1", max_file_seconds=1), demo_recognizer(), limits=limits)
    with serving(service, certificates) as served, Clients(served, certificates).plain() as client:
        [route] = [part for part in served.app.state.stopping.parts if isinstance(part, Transcriptions)]
        for held, status in ((SAMPLE_RATE, 200), (SAMPLE_RATE + 1, 429)):
            with route._samples.opened("127.0.0.1") as take:  # another file of this address
                take(held)
                got, error = post(client, form("x", wav(np.zeros(SAMPLE_RATE, np.float32))))
            assert got == status
        assert "2 seconds of audio" in error["message"]


def disconnect_while_sending(clients: Clients) -> None:
    with clients.plain() as client:
        slow = SlowUpload(speech())

        def pieces() -> Iterator[bytes]:
            yield slow.whole[:100_000]
            raise KeyError("a fault of the client")

        with pytest.raises(KeyError):
            post(client, pieces())


def disconnect_while_waiting(clients: Clients) -> None:
    with clients.sync() as client, pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=openai.Timeout(60, read=0.5)), speech(60))


def disconnect_while_reading(clients: Clients) -> None:
    with clients.sync() as client:
        events = ask(client, speech(60), stream=True)
        next(events)
        events.close()


@pytest.mark.slow
@pytest.mark.parametrize("disconnect", [disconnect_while_sending, disconnect_while_waiting, disconnect_while_reading])
def test_a_client_that_disconnects_leaves_nothing_behind(
    clients: Clients, uploads: Path, disconnect: Callable[[Clients], None], caplog: pytest.LogCaptureFixture
) -> None:
    before = open_in(uploads)  # pytest's own files, into which it captures output
    seconds_before = clients.service.sessions.audio_seconds()
    disconnect(clients)
    assert until(lambda: open_in(uploads) == before)
    # The work was canceled: most of the audio was never fed to the recognizer.
    seconds = clients.service.sessions.audio_seconds() - seconds_before
    assert seconds < MINUTES_OF_SPEECH * 60 / 2
    assert list(uploads.iterdir()) == []
    with clients.sync() as client:
        assert ask(client).text
    assert "Traceback" not in caplog.text  # uvicorn logs here too
    assert "ASGI" not in caplog.text


@pytest.mark.slow
def test_an_upload_that_stalls_is_ended(certificates: Path, uploads: Path) -> None:
    limits = Limits(upload=UploadLimits(idle_seconds=0.3, linger_seconds=0.3))
    slow = SlowUpload(speech())
    with (
        limited(certificates, limits) as clients,
        clients.plain() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(post_slowly, client, slow)
        assert until(lambda: timeouts(clients) == 1)
        assert until(lambda: open_in(uploads) == 0)
        slow.go_on.set()
        # The server has closed the connection. Whether the client sees that or the answer first is a race.
        with contextlib.suppress(httpx.TransportError):
            assert answer.result(60).status_code == 408


# --- failures of the server


def test_an_upload_that_cannot_be_stored(clients: Clients, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with clients.sync() as client, pytest.raises(openai.InternalServerError, match="cannot store the") as failure:
        ask(client)
    assert (failure.value.status_code, failure.value.code) == (507, "storage_error")


@pytest.mark.slow
def test_a_stream_ends_with_an_error_when_the_recognizer_stops(certificates: Path) -> None:
    with serving(Service(Config(host="127.0.0.1"), demo_recognizer()), certificates) as served:
        clients = Clients(served, certificates)
        with clients.sync() as client:
            events = ask(client, speech(20), stream=True)
            next(events)
            served.service.close()
            with pytest.raises(openai.APIError, match="The recognizer was stopped") as failure:
                list(events)
            assert failure.value.code == "step_failed"
            with pytest.raises(openai.InternalServerError, match="The recognizer was stopped") as refusal:
                ask(client)
    assert (refusal.value.status_code, refusal.value.type) == (500, "server_error")


@pytest.mark.slow
def test_open_requests_get_an_error_when_the_server_stops(
    certificates: Path, uploads: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = open_in(uploads)
    limits = Limits(shutdown=ShutdownLimits(seconds=0.5))  # much less than these requests need
    with ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as running:
        clients = running.enter_context(limited(certificates, limits))
        with clients.sync() as reading, clients.sync() as waiting, clients.plain() as sending:
            events = ask(reading, speech(60), stream=True)
            next(events)
            waits = pool.submit(ask, waiting, speech(60))
            slow = SlowUpload(speech())
            half_sent = pool.submit(post_slowly, sending, slow)
            assert until(
                lambda: open_in(uploads) == before + 3 and clients.service.sessions.open_by_kind()["rest"] == 2
            )
            assert not waits.done()
            assert not half_sent.done()
            running.close()
            slow.go_on.set()
            with pytest.raises(openai.InternalServerError, match="The server is restarting") as refusal:
                waits.result(60)
            assert (refusal.value.status_code, refusal.value.code) == (503, "server_stopping")
            with pytest.raises(openai.APIError, match="The server is restarting"):
                list(events)
            with contextlib.suppress(httpx.TransportError):  # the connection may be closed before the answer is read
                assert half_sent.result(60).status_code == 503
    assert "Traceback" not in caplog.text  # uvicorn logs here too
    assert not re.search("Cancel [1-9]", caplog.text)  # it did not have to cancel a request
    gc.collect()


# --- files with times, tracks and channels


@pytest.mark.slow
def test_segments_have_the_times_of_a_webm_without_packets_in_its_silence(clients: Clients) -> None:
    parts = [(0.5, spoken("Turn on the kitchen light.")), (22.0, spoken("Wake me up at half past six."))]
    whole = placed(*parts, (44.0, spoken("My number is four seven one.")), seconds=47)
    webm = container("webm", Track(whole, codec="libopus", gaps=[(5, 21), (26, 43)]))
    with clients.sync() as client:
        segments = ask(client, webm, response_format="verbose_json").segments
        truth = ask(client, container("webm", Track(whole, codec="libopus")), response_format="verbose_json").segments
        cues = list(srt.parse(ask(client, webm, response_format="srt")))
    assert [segment.text for segment in segments] == [segment.text for segment in truth]
    assert len(segments) == 3
    assert [segment.start for segment in segments] == pytest.approx([segment.start for segment in truth], abs=0.05)
    assert [segment.end for segment in segments] == pytest.approx([segment.end for segment in truth], abs=0.05)
    assert cues[-1].start.total_seconds() > 43


@pytest.mark.slow
def test_the_track_and_the_channel_of_a_film(clients: Clients) -> None:
    one, two = spoken("Turn on the kitchen light."), spoken("Wake me up at half past six.")
    sides = np.stack([placed((0.3, one), seconds=4), placed((0.3, two), seconds=4)], axis=1)
    film = container(
        "matroska",
        Track(placed((0.3, one), seconds=4), tags={"language": "eng"}, disposition=Disposition.default),
        Track(sides, codec="flac", layout="stereo", tags={"language": "ger"}),
    )
    with clients.plain() as client:

        def text_of(**fields: str) -> Any:
            return client.post(ROUTE, files={"file": ("film.mkv", film)}, data=fields).json()

        assert "kitchen" in text_of()["text"]
        for track in ("2", "de", "German"):
            assert "half past" in text_of(track=track, channel="right")["text"]
        assert "kitchen" in text_of(track="2", channel="1")["text"]
        message = text_of(track="fr")["error"]["message"]
        assert "it has 1 (eng, pcm_s16le, 1 channel); 2 (ger, flac, 2 channels)" in message

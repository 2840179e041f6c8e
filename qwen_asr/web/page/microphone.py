"""The streaming microphone: a Gradio component that loses no audio, and the transcript beside it.

It is a `gr.HTML` with a script, so it works wherever Gradio does (login, Spaces, share links, sub-paths) and needs no
route, no package and no build step. The script's modules are in `browser/`; `bundle` joins them when the server starts.
They come with the page instead of from a route because a page then has all it needs: it records while the server is
away, an update of the server never mixes two versions in one tab, and no policy or proxy has to allow another path.

In the browser an AudioWorklet makes blocks of int16 at the microphone's native rate. They travel through Gradio's
``server_functions``, one POST at a time:

    page → {recording, rate, offset, audio, last, …}         "bytes from `offset`; the recording ends at `last`"
    page ← {received, safe, utterances, revision, lag, done} "everything up to `received` is here; this text changed"

or one of these instead:

    page ← {queued}    the recording waits at this position for a free slot
    page ← {full}      the server is full, and so is its queue
    page ← {gone}      the server does not know the recording (any more)
    page ← {retry}     not now; the message says why
    page ← {farewell}  the server shuts down; send the rest to its successor
    page ← {error}     the message says what was wrong

Each message has the language, the context and the pause length that were chosen when its audio was spoken. Where they
change, the recording uses them from the next utterance on. `refused` in a reply says why it cannot; the recording goes
on with the options that it has. Its model is that of its first message.

Pages stay open across updates of the server, so these names do not change.

While there is no new text the reply is held back for a moment (a short long-poll). Text arrives as soon as it is there
without a second connection: over HTTP/1.1 browsers open six to a host, for all tabs together. So a tab that records
holds one, and every other tab none.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import anyio.to_thread
import gradio as gr

from qwen_asr.config.limits import PageLimits
from qwen_asr.errors import BadInput, LimitExceeded, NotReady, QwenASRError
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.service.rate_limit import sender
from qwen_asr.web.access.identity import identity
from qwen_asr.web.page.bundle import bundle
from qwen_asr.web.page.downloads import download
from qwen_asr.web.page.recordings import Recording, RecordingRegistry

BROWSER = Path(__file__).parent / "browser"
MAX_WAIT_SECONDS = 10.0
"""The longest that a reply is held back: below the 30 s or so after which proxies give up on a silent request."""
RATES = range(8_000, 192_001)
START = "\nmodules.microphone.start(element, props, server);\n//# sourceURL=qwen-asr-page.js\n"
"""Starts the script: Gradio runs it as the body of a function with the parameters `element`, `props` and `server`."""
STOCK_RECORDING = "stock"
"""The id of the recording that Gradio's own recorder feeds: it cannot send one."""


class State(Protocol):
    """The state of the server, as the page shows it."""

    def as_dict(self) -> dict[str, Any]:
        """`state` ("loading", "ready" or "failed"), `text` (progress, or what is wrong), `model` (its name), `note`."""

    def session_options(
        self,
        *,
        language: str | None = None,
        context: str = "",
        silence_seconds: float | None = None,
        words: bool = False,
        model: str | None = None,
    ) -> SessionOptions:
        """The options of a session, with the server's defaults. Raises UnknownLanguage, BadConfig."""

    def check_options(self, options: SessionOptions) -> None:
        """Raises what opening a session with these options would raise."""


@dataclass(frozen=True)
class Post:
    """One message of the page, validated."""

    recording: str
    rate: int
    offset: int
    audio: bytes
    last: int | None
    revision: int
    wait: float
    context: str
    language: str | None
    pause: float | None
    model: str
    queued: int

    @classmethod
    def parse(cls, data: object, max_block_bytes: int = PageLimits.block_bytes) -> Post:
        """Raises BadInput for anything that our own page would not send."""
        try:
            if not isinstance(data, dict):
                raise TypeError("not an object")
            last = data.get("last")
            if not math.isfinite(wait := float(data["wait"])):  # NaN would break the order of the event loop's timers
                raise ValueError("wait is not a number")
            pause = data.get("pause")
            post = cls(
                recording=str(data["recording"]),
                rate=int(data["rate"]),
                offset=int(data["offset"]),
                audio=base64.b64decode(data["audio"], validate=True),
                last=None if last is None else int(last),
                revision=int(data["revision"]),
                wait=min(max(wait, 0.0), MAX_WAIT_SECONDS),
                context=str(data.get("context") or ""),
                language=str(data["language"]) if data.get("language") else None,
                pause=None if pause is None else float(pause),
                model=str(data.get("model") or ""),
                queued=int(data.get("queued") or 0),
            )
        except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as error:
            raise BadInput(f"The page sent a message that cannot be read ({error}); reload the page.") from None
        post._check(max_block_bytes)
        return post

    def _check(self, max_block_bytes: int) -> None:
        limits = {
            "recording": re.fullmatch(r"[0-9a-zA-Z-]{1,64}", self.recording) is not None,
            "rate": self.rate in RATES,
            "offset": self.offset >= 0 and self.offset % 2 == 0 and (self.last is None or self.last >= 0),
            "audio": len(self.audio) <= max_block_bytes,
            "context": len(self.context) <= PageLimits.context_characters,
            "language": len(self.language or "") <= PageLimits.language_characters,
            "model": len(self.model) <= PageLimits.model_characters,
        }
        wrong = [name for name, right in limits.items() if not right]
        if wrong:
            raise BadInput(f"The page sent a message whose {' and '.join(wrong)} is out of bounds; reload the page.")


def streaming_microphone(
    recordings: RecordingRegistry,
    state: State,
    *,
    limits: PageLimits | None = None,
    has_login: bool = False,
    elem_id: str = "microphone",
) -> gr.HTML:
    """The component: the big button, the status and the transcript. Call it inside of `gr.Blocks`.

    `recordings` takes the audio and has the text. `state` says whether the server is ready. The browser stops recording
    when it holds `limits.backlog_seconds` of audio for a server that it cannot reach. `has_login`: the page needs a
    login, which may end while it records.
    """
    limits = limits or PageLimits()

    async def exchange(data: Any, request: gr.Request) -> dict[str, Any]:
        """Takes a block of audio; returns what is here and the text that changed. Errors of ours become replies."""
        try:
            post = Post.parse(data, limits.block_bytes)
            tab = await _tab(request)
            recording = recordings.get(tab, post.recording)
            if recording is None:
                # Only a recording that begins is opened. One that continues was lost in a restart, or closed as idle.
                if post.offset > 0 or post.recording == STOCK_RECORDING:
                    return {"gone": True}
                options = _options(post, state, post.model)
                if position := await _position(recordings, tab, post, sender(request.scope)):
                    return {"queued": position}
                recording = await anyio.to_thread.run_sync(recordings.open, tab, post.recording, post.rate, options)
            await anyio.to_thread.run_sync(_take, recording, post, state)
        except NotReady as error:
            return {"retry": str(error)}
        except LimitExceeded as error:
            return {"full": str(error)}
        except QwenASRError as error:
            return {"error": str(error)}
        if not post.queued:  # a page that has waited for its slot has audio to send: answer at once
            await recording.notifier.wait(lambda: recording.has_changed(post.revision), post.wait)
        if notice := recording.shutdown_notice(post.revision):
            return {"farewell": notice}
        return recording.view(post.revision)

    async def server_state(_: Any, request: gr.Request) -> dict[str, Any]:
        """The server's state, now: a page that waits for it must not hold a connection. `user`: who has logged in."""
        return {**state.as_dict(), "user": identity(request.scope) if has_login else ""}

    async def leave(_: Any, request: gr.Request) -> None:
        """The page is closed, or another is shown in its place."""
        recordings.tab_closed(await _tab(request))

    # Not a subclass of gr.HTML: Gradio writes a .pyi file beside the source of every class that is derived from it.
    return gr.HTML(
        html_template=_text("live/microphone.html"),
        js_on_load=bundle(BROWSER / "live" / "microphone.js") + START,
        server_functions=[exchange, server_state, leave, download],
        apply_default_css=False,
        elem_id=elem_id,
        worklet=_text("microphone/worklet.js"),
        backlog_seconds=limits.backlog_seconds,
        has_login=has_login,
        stock_recording=STOCK_RECORDING,
        # A post is base64 and JSON in the server's memory. Half of what is allowed is 5 s of audio, which is plenty.
        block_bytes=limits.block_bytes // 2,
        download_bytes=limits.transcript_bytes,
    )


def _text(name: str) -> str:
    return (BROWSER / name).read_text(encoding="utf-8")


async def _position(recordings: RecordingRegistry, tab: str, post: Post, address: str) -> int:
    """The recording's position in the queue, held back while it is the one that the page has. 0: it can be opened."""
    entry = recordings.queue_entry(tab, post.recording, address)
    if entry is None:
        return 0
    if entry.position == post.queued:
        await entry.wait_for_move(post.queued, post.wait)
    return entry.position


def change_options(recording: Recording, state: State, wanted: Callable[[], SessionOptions]) -> None:
    """Uses the options that `wanted` returns from the next utterance on, or sets `refused` to why it cannot.

    Takes milliseconds if they have changed: call it on a worker thread.
    """
    try:
        options = wanted()
        if options != recording.options:
            state.check_options(options)
            recording.change(options)
        recording.refused = None
    except QwenASRError as error:
        recording.refused = str(error)


def _options(post: Post, state: State, model: str) -> SessionOptions:
    return state.session_options(
        language=post.language, context=post.context, silence_seconds=post.pause, words=True, model=model
    )


def _take(recording: Recording, post: Post, state: State) -> None:
    if post.recording != STOCK_RECORDING:  # the simple recorder sends its audio and its options by itself
        # The recording stays with its model, whichever is chosen for the next one.
        change_options(recording, state, partial(_options, post, state, recording.options.model))
        recording.receive(post.offset, post.audio)
    if post.last is not None:
        recording.finish(recording.received if post.recording == STOCK_RECORDING else post.last)


async def _tab(request: gr.Request) -> str:
    """Gradio's session hash of the tab that sent the request.

    Gradio gives a server function the plain web request instead of the `gr.Request` of its annotation, so there is no
    `session_hash` attribute. The body, which Gradio has parsed and Starlette keeps, has it.
    """
    read_json = cast(Callable[[], Any], request.json)
    return str((await read_json())["session_hash"])

"""The streaming microphone: one for Gradio that loses nothing, and the text beside it.

A `gr.HTML` with a script, so it goes wherever Gradio goes (login, Spaces, share links, sub-paths) and needs no route,
no package of its own and no build step. In the browser (`capture.js`) an AudioWorklet makes int16 blocks at the
native rate; they travel through Gradio's own ``server_functions``, one POST at a time:

    page → {tab, recording, offset, audio, last}      "bytes from here; the recording ends at `last`"
    page ← {received, safe, utterances, lag, done}    "all is here up to `received`; this text changed"

The reply is held back for a moment where no text is new yet (a short long-poll), so text arrives as soon as it is
there without a second connection: browsers allow six to a host, and Gradio itself holds one per tab.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import anyio.to_thread
import gradio as gr

from qwen_asr.config.limits import MAX_BACKLOG_SECONDS, MAX_BLOCK_BYTES
from qwen_asr.errors import BadInput, LimitExceeded, NotReady, QwenASRError
from qwen_asr.service.notifier import Notifier
from qwen_asr.service.rate_limit import sender
from qwen_asr.service.session_options import SessionOptions
from qwen_asr.web.page.recordings import Recording, RecordingRegistry

HERE = Path(__file__).parent
SCRIPTS = ("capture.js", "recording.js", "microphone.js")
LONGEST_WAIT_SECONDS = 10.0
"""The longest that a request is held back, below the 30 s or so at which proxies give a silent request up."""
RATES = range(8_000, 192_001)
MAX_CONTEXT_CHARACTERS = 10_000
MAX_LANGUAGE_CHARACTERS = 64
STOCK_RECORDING = "stock"
"""The name of the recording that Gradio's own recorder feeds: it can send no name."""


class State(Protocol):
    """What the page shows of the server: "loading", "ready" or "failed", with a text for people."""

    @property
    def notifier(self) -> Notifier: ...

    def as_dict(self) -> dict[str, Any]:
        """`state`, `text` (progress, or what is wrong), `model` and `note`: its name and what it understands."""


@dataclass(frozen=True)
class Post:
    """One message of the page, checked. It comes from a browser, so nothing about it is taken for granted."""

    recording: str
    rate: int
    offset: int
    audio: bytes
    last: int | None
    revision: int
    wait: float
    context: str
    language: str | None
    queued: int

    @classmethod
    def parse(cls, data: object) -> Post:
        """Raises BadInput for anything that our own page would not send."""
        try:
            if not isinstance(data, dict):
                raise TypeError("not an object")
            last = data.get("last")
            post = cls(
                recording=str(data["recording"]),
                rate=int(data["rate"]),
                offset=int(data["offset"]),
                audio=base64.b64decode(data["audio"], validate=True),
                last=None if last is None else int(last),
                revision=int(data["revision"]),
                wait=min(max(float(data["wait"]), 0.0), LONGEST_WAIT_SECONDS),
                context=str(data.get("context") or ""),
                language=str(data["language"]) if data.get("language") else None,
                queued=int(data.get("queued") or 0),
            )
        except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as error:
            raise BadInput(f"The page sent a message that is not understood ({error}); reload the page.") from None
        post._check()
        return post

    def _check(self) -> None:
        limits = {
            "recording": re.fullmatch(r"[0-9a-zA-Z-]{1,64}", self.recording) is not None,
            "rate": self.rate in RATES,
            "offset": self.offset >= 0 and self.offset % 2 == 0 and (self.last is None or self.last >= 0),
            "audio": len(self.audio) <= MAX_BLOCK_BYTES,
            "context": len(self.context) <= MAX_CONTEXT_CHARACTERS,
            "language": len(self.language or "") <= MAX_LANGUAGE_CHARACTERS,
        }
        wrong = [name for name, right in limits.items() if not right]
        if wrong:
            raise BadInput(f"The page sent a message whose {' and '.join(wrong)} is out of bounds; reload the page.")


def streaming_microphone(
    recordings: RecordingRegistry,
    state: State,
    *,
    backlog_seconds: float = MAX_BACKLOG_SECONDS,
    elem_id: str = "microphone",
) -> gr.HTML:
    """The component: the big button, the status, and the text; see the module's docstring. Call it inside of Blocks.

    `recordings` takes the audio and has the text, `state` says whether the server is ready. `backlog_seconds` is how
    much audio the browser keeps for a server that it cannot reach before it takes no more.
    """

    async def exchange(data: Any, request: gr.Request) -> dict[str, Any]:
        """Takes a block of audio; answers with what is here and with the text that changed. Raises nothing of ours."""
        try:
            post = Post.parse(data)
            tab = await _tab(request)
            recording = recordings.get(tab, post.recording)
            if recording is None:
                # A recording that begins may be opened; one that goes on, and is not here, was lost with a restart or
                # freed.
                if post.offset > 0 or post.recording == STOCK_RECORDING:
                    return {"gone": True}
                if position := await _position(recordings, tab, post, sender(request.scope)):
                    return {"queued": position}
                options = SessionOptions(post.rate, post.context, post.language)
                recording = await anyio.to_thread.run_sync(recordings.open, tab, post.recording, options)
            await anyio.to_thread.run_sync(_take, recording, post)
        except NotReady as error:
            return {"retry": str(error)}
        except LimitExceeded as error:
            return {"full": str(error)}
        except QwenASRError as error:
            return {"error": str(error)}
        if not post.queued:  # the page has sound to send as soon as it knows that it has its place
            await recording.notifier.wait(lambda: recording.has_changed(post.revision), post.wait)
        if notice := recording.shutdown_notice(post.revision):
            return {"farewell": notice}
        return recording.view(post.revision)

    async def server_state(known: Any) -> dict[str, Any]:
        """The server's state, held back until it differs from the one that the page knows."""
        await state.notifier.wait(lambda: state.as_dict() != known, LONGEST_WAIT_SECONDS)
        return state.as_dict()

    # Not a subclass of gr.HTML: Gradio writes a .pyi file beside the source of every class that is derived from it.
    return gr.HTML(
        html_template=_text("microphone.html"),
        js_on_load="\n".join(_text(name) for name in SCRIPTS),
        server_functions=[exchange, server_state],
        apply_default_css=False,
        elem_id=elem_id,
        worklet=_text("worklet.js"),
        backlog_seconds=backlog_seconds,
        stock_recording=STOCK_RECORDING,
        # A post is base64 and JSON in the server's memory; half of what is allowed is plenty: 5 s of sound at once.
        block_bytes=MAX_BLOCK_BYTES // 2,
    )


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


async def _position(recordings: RecordingRegistry, tab: str, post: Post, address: str) -> int:
    """How many have to leave before the recording can be opened, held back while that is what the page knows."""
    entry = recordings.queue_entry(tab, post.recording, address)
    if entry is None:
        return 0
    if entry.position == post.queued:
        await entry.wait_for_move(post.queued, post.wait)
    return entry.position


def _take(recording: Recording, post: Post) -> None:
    if post.recording != STOCK_RECORDING:
        recording.receive(post.offset, post.audio)
    if post.last is not None:
        recording.finish(recording.received if post.recording == STOCK_RECORDING else post.last)


async def _tab(request: gr.Request) -> str:
    """Gradio's session hash of the tab that asks.

    A server function is given the bare web request, not the `gr.Request` of its annotation, and that one knows no
    hash; but the message that Gradio has just read has it, and its parsed form is kept.
    """
    read_json = cast(Callable[[], Any], request.json)
    return str((await read_json())["session_hash"])

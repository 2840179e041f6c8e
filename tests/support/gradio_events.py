"""What a browser sends for the simple recorder of the page: uploads and events, in Gradio's own HTTP calls."""

from __future__ import annotations

import json
import secrets
from contextlib import AbstractContextManager
from typing import Any

import httpx

from tests.support.browser import page_config


class RecorderClient:
    """A tab whose simple recorder sends what a test says. `http` has the server as its base URL."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.tab = secrets.token_hex(8)
        config = page_config(http.get("/").text)
        [self._event] = [
            one for one in config["dependencies"] if any(target[1] == "stream" for target in one["targets"])
        ]

    def upload(self, content: bytes, name: str = "audio.wav", kind: str = "audio/wav") -> httpx.Response:
        """Uploads a file; the answer is a list with its path on the server."""
        return self.http.post("/gradio_api/upload", files={"files": (name, content, kind)})

    def send(self, file: object, language: object = "Automatic", context: object = "") -> dict[str, Any]:
        """Sends the event of a block; returns Gradio's last message about it."""
        answer = self.join(file, language, context)
        joined = answer.json()
        if answer.status_code == 400:  # refused before Gradio saw it
            return {"success": False, "output": {"error": joined["error"]["message"]}}
        result: dict[str, Any] = {}
        with self.messages() as answer:
            for line in answer.iter_lines():  # to the end: Gradio drops the events of a tab that disconnects
                message = json.loads(line.removeprefix("data:")) if line else {"msg": ""}
                if message["msg"] == "process_streaming":  # it was taken; Gradio waits for the next block
                    self.http.post(f"/gradio_api/stream/{joined['event_id']}/close").raise_for_status()
                elif message["msg"] in ("process_completed", "unexpected_error"):
                    result = message
        return result

    def join(self, file: object, language: object = "Automatic", context: object = "") -> httpx.Response:
        """Sends the event of a block; the answer has the event's id."""
        event = {
            "data": [file, language, context],
            "fn_index": self._event["id"],
            "trigger_id": self._event["targets"][0][0],
            "session_hash": self.tab,
            "event_data": None,
        }
        return self.http.post("/gradio_api/queue/join", json=event)

    def messages(self) -> AbstractContextManager[httpx.Response]:
        """The stream of Gradio's messages about the events of the tab."""
        return self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.tab})

    def send_uploaded(self, content: bytes, name: str = "audio.wav", kind: str = "audio/wav") -> dict[str, Any]:
        """Uploads a file and sends the event that names it."""
        [path] = self.upload(content, name, kind).raise_for_status().json()
        return self.send(file_data(path, orig_name=name, mime_type=kind))


def file_data(path: str, **more: object) -> dict[str, object]:
    """A file as Gradio's events name it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}

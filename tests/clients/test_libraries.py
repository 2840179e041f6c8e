"""Python libraries that call OpenAI's REST API, or one of its own kind, for their users."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.clients import ClientServer, Speech, words


def test_litellm(server: ClientServer, speech: Speech) -> None:
    import litellm

    with speech.wav(16_000).open("rb") as file:
        answer = litellm.transcription(model="openai/whisper-1", file=file, api_base=server.api, api_key="any")
    assert words(answer.text) == speech.words


def test_speech_recognition(server: ClientServer, speech: Speech, monkeypatch: pytest.MonkeyPatch) -> None:
    import speech_recognition

    monkeypatch.setenv("OPENAI_BASE_URL", server.api)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    recognizer: Any = speech_recognition.Recognizer()
    with speech_recognition.AudioFile(str(speech.wav(16_000))) as source:
        audio = recognizer.record(source)
    assert words(recognizer.recognize_openai(audio, model="whisper-1", language="en")) == speech.words


def test_hugging_face(server: ClientServer, speech: Speech) -> None:
    """It sends the file as the body of the request."""
    from huggingface_hub import InferenceClient

    client = InferenceClient(token="any")  # noqa: S106 - the server asks for no key
    url = f"{server.api}/audio/transcriptions"
    answer = client.automatic_speech_recognition(str(speech.wav(16_000)), model=url)
    assert words(answer.text) == speech.words

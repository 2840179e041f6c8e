"""An utterance of a recording, as the page shows it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.live.events import Aligned, Failed, Final, Partial, TextEvent


@dataclass(frozen=True)
class TranscriptLine:
    """One utterance of the transcript. `revision` is the recording's at the last change of the utterance."""

    revision: int
    event: TextEvent

    def with_words(self, aligned: Aligned, revision: int) -> TranscriptLine:
        """The line with the words of its final, which were found later."""
        event = replace(self.event, words=aligned.words) if isinstance(self.event, Final) else self.event
        return TranscriptLine(revision, event)

    def to_json(self) -> dict[str, Any]:
        """The utterance for the page: settled and tentative text, start and end in seconds, or an error message.

        Each of the `words` is its text, and its start and end in seconds.
        """
        event = self.event
        text = "" if isinstance(event, Failed) else event.text
        stable = event.stable if isinstance(event, Partial) else len(text)
        words = event.words if isinstance(event, Final) else ()
        return {
            "number": event.utterance,
            "settled": text[:stable],
            "tentative": text[stable:],
            "start": event.start / SAMPLE_RATE,
            "end": event.end / SAMPLE_RATE,
            "final": not isinstance(event, Partial),
            "corrected": isinstance(event, Final) and event.corrected,
            "language": None if isinstance(event, Failed) else event.language,
            "error": event.message if isinstance(event, Failed) else None,
            "words": [
                [word.text, round(word.start / SAMPLE_RATE, 3), round(word.end / SAMPLE_RATE, 3)] for word in words
            ],
        }

"""An utterance as the page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.live.events import Failed, Final, Partial


@dataclass
class TranscriptLine:
    """An utterance as the page shows it; `revision` is that of its last change."""

    revision: int
    event: Partial | Final | Failed

    def to_json(self) -> dict[str, Any]:
        """For the page: its text, settled and not, from where to where in seconds, or what went wrong."""
        event = self.event
        text = "" if isinstance(event, Failed) else event.text
        stable = event.stable if isinstance(event, Partial) else len(text)
        return {
            "number": event.utterance,
            "settled": text[:stable],
            "tentative": text[stable:],
            "start": event.start / SAMPLE_RATE,
            "end": event.end / SAMPLE_RATE,
            "final": not isinstance(event, Partial),
            "language": None if isinstance(event, Failed) else event.language,
            "error": event.message if isinstance(event, Failed) else None,
        }

"""An utterance of a recording, as the page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.live.events import Failed, Final, Partial


@dataclass
class TranscriptLine:
    """One utterance of the transcript. `revision` is the recording's at the last change of the utterance."""

    revision: int
    event: Partial | Final | Failed

    def to_json(self) -> dict[str, Any]:
        """The utterance for the page: settled and tentative text, start and end in seconds, or an error message."""
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

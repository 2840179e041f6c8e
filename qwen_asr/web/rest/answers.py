"""The answers of the transcription route: JSON, text and subtitles."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, PlainTextResponse, Response

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.languages import language_code, resolve_language
from qwen_asr.live.events import Final
from qwen_asr.live.subtitles.formats import srt, vtt
from qwen_asr.live.transcript import Transcript, join_texts, rounded_seconds
from qwen_asr.web.rest.form import TranscriptionRequest
from qwen_asr.web.spoken_words import bare, spoken_words

WhyNoWords = Callable[[str | None], str | None]
"""`Service.why_no_words`."""


class Answer(BaseModel):
    """A JSON object that always has all of its fields, as its schema says too, except for those that are `absent`."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


def absent(description: str) -> Any:
    """A field that is left out where it is None."""
    return Field(default=None, exclude_if=lambda value: value is None, description=description)


class Usage(Answer):
    """What a transcription is measured by."""

    type: Literal["duration"] = "duration"
    seconds: float = Field(description="The length of the audio.")


class Language(Answer):
    """A language that was spoken."""

    code: str = Field(description="As in ISO 639-1, or 639-3 for Cantonese and Filipino.")


class Logprob(Answer):
    """A token of the text."""

    token: str = Field(description="Its text. The tokens, joined, are the text.")
    logprob: float = Field(description="The natural logarithm of its probability.")
    bytes: list[int] = Field(description="Its text in UTF-8, for tokens that are a part of a character.")


class SegmentFields(Answer):
    """One utterance.

    Whisper's `no_speech_prob` is not known here. Clients filter segments by it, so it holds a value that no filter
    drops. `tokens` are empty and `avg_logprob` is 0 where the server has removed a part of what the model wrote and the
    rest is not made of whole tokens.
    """

    seek: int = Field(description="`start` in hundredths of a second.")
    start: float = Field(description="In seconds from the beginning of the audio.")
    end: float = Field(description="In seconds from the beginning of the audio.")
    text: str
    tokens: list[int] = Field(description="The model's tokens.")
    temperature: float = 0.0
    avg_logprob: float = Field(description="The mean of the natural logarithms of the tokens' probabilities.")
    compression_ratio: float
    no_speech_prob: float = 0.0


class Segment(SegmentFields):
    """One utterance, with its number."""

    id: int


class TranscribedWord(Answer):
    """A word and its times in seconds from the beginning of the audio."""

    word: str = Field(description="Without the punctuation around it, which `text` has.")
    start: float
    end: float


class Transcription(Answer):
    """The answer for `response_format=json`."""

    text: str
    languages: list[Language] = Field(description="Those that were spoken, the most spoken one first.")
    logprobs: list[Logprob] | None = absent("With include[]=logprobs.")
    usage: Usage


class VerboseTranscription(Transcription):
    """The answer for `response_format=verbose_json`."""

    task: Literal["transcribe"] = "transcribe"
    language: str = Field(description="The English name of the language in lower case; empty if nothing was said.")
    duration: float = Field(description="The length of the audio in seconds.")
    segments: list[Segment] | None = absent("Absent where timestamp_granularities[] has only word, and all are known.")
    words: list[TranscribedWord] | None = absent("With timestamp_granularities[]=word, where words are known.")
    warnings: list[str] = Field(description="What is missing in the answer, and what was removed from the text.")


def whole_answer(
    request: TranscriptionRequest, why_no_words: WhyNoWords, finals: Sequence[Final], seconds: float
) -> Response:
    """The answer to `request`. `seconds` is the length of the audio."""
    text = join_texts(final.text for final in finals)
    if request.response_format == "text":
        return PlainTextResponse(text + "\n")
    if request.response_format == "srt":
        return PlainTextResponse(srt(finals))
    if request.response_format == "vtt":
        return PlainTextResponse(vtt(finals), media_type="text/vtt")
    answer = Transcription(
        text=text,
        languages=languages(finals),
        logprobs=logprobs(finals) if request.with_logprobs else None,
        usage=Usage(seconds=seconds),
    )
    if request.response_format == "verbose_json":
        has_words = request.words and why_no_words(request.spoken_language) is None
        words = transcribed_words(finals) if has_words else None
        is_complete = words is not None and all(final.words or not bare(final.text) for final in finals)
        answer = VerboseTranscription(
            **dict(answer),
            language=(Transcript(finals).language or resolve_language(request.spoken_language) or "").lower(),
            duration=seconds,
            # A client that wants the times of words gets those of the utterances where there are none.
            segments=None if is_complete and not request.segments else segments(finals),
            words=words,
            warnings=[
                *(word_warnings(request, why_no_words, finals) if request.words else []),
                *(warning for final in finals for warning in final.warnings),
            ],
        )
    return JSONResponse(answer.model_dump())


def segments(finals: Iterable[Final]) -> list[Segment]:
    """A segment for each utterance with text."""
    spoken = (final for final in finals if final.text)
    return [Segment(id=number, **segment_fields(final)) for number, final in enumerate(spoken)]


def transcribed_words(finals: Iterable[Final]) -> list[TranscribedWord]:
    """The words of all utterances, as OpenAI names them."""
    return [
        TranscribedWord(word=word.bare, start=rounded_seconds(word.start), end=rounded_seconds(word.end))
        for final in finals
        for word in spoken_words(final)
    ]


def word_warnings(request: TranscriptionRequest, why_no_words: WhyNoWords, finals: Iterable[Final]) -> list[str]:
    """Why words are missing, each reason once."""
    spoken = [final.language for final in finals if final.language and not final.words]
    reasons = dict.fromkeys(filter(None, map(why_no_words, [request.spoken_language, *spoken])))
    return [f"words: {reason} `segments` has the times of the utterances." for reason in reasons]


def segment_fields(final: Final) -> dict[str, Any]:
    """The fields of the segment for an utterance. Times are exact to the sample."""
    return {
        "seek": final.start * 100 // SAMPLE_RATE,
        "start": final.start / SAMPLE_RATE,
        "end": final.end / SAMPLE_RATE,
        "text": final.text,
        "tokens": [token.id for token in final.tokens],
        "avg_logprob": final.avg_logprob or 0.0,
        "compression_ratio": compression_ratio(final.text),
    }


def languages(finals: Iterable[Final]) -> list[Language]:
    """The languages of the utterances with text, that of most of the audio first."""
    spoken: Counter[str] = Counter()
    for final in finals:
        if final.text and (code := language_code(final.language)):
            spoken[code] += final.end - final.start
    return [Language(code=code) for code, _ in spoken.most_common()]


def logprobs(finals: Iterable[Final], before: str = "") -> list[Logprob]:
    """The tokens of the texts, which follow the text `before`. The space between two utterances is in the second."""
    scores = []
    for final in finals:
        joined = join_texts([before[-1:], final.text])
        gap = joined[len(before[-1:]) : len(joined) - len(final.text)]
        for token in final.tokens:
            data, gap = gap.encode() + token.data, ""
            text = data.decode(errors="replace")
            scores.append(Logprob(token=text, logprob=token.log_probability, bytes=list(data)))
        before = joined
    return scores


def token_counts(finals: Iterable[Final]) -> tuple[int, int]:
    """How many tokens the model read and how many it wrote."""
    counts = [(final.prompt_tokens, final.written_tokens) for final in finals]
    return sum(read for read, _ in counts), sum(wrote for _, wrote in counts)


def compression_ratio(text: str) -> float:
    """Bytes of the text divided by its bytes after zlib.

    As in openai/whisper, whisper/utils.py. Clients take a segment above 2.4 for a repetition loop.
    """
    data = text.encode()
    return len(data) / len(zlib.compress(data))

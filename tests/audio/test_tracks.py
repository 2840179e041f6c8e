"""The audio track of a file: the one that speaks, or the one that is named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from av.stream import Disposition

from qwen_asr.audio import tracks
from qwen_asr.audio.decode import decode_blocks, load_audio, seconds_of
from qwen_asr.audio.tracks import SoundChoice, parse_choice
from qwen_asr.engine.languages import language_tags
from qwen_asr.errors import AudioError
from tests.support.media import Track, container, save, tone

LEVELS = (0.1, 0.2, 0.4)
"""The level of each track: what was decoded says which it is."""


def film(*languages: str, form: str = "matroska", default: int = 0) -> bytes:
    """A film with a track in each language."""
    return container(
        form,
        *(
            Track(
                tone(0.5, level=LEVELS[number]), tags={"language": language}, disposition=Disposition(number == default)
            )
            for number, language in enumerate(languages)
        ),
    )


def heard(content: bytes, **choice: str | None) -> int:
    """The number of the track that is decoded, from 1. `choice` has the texts of a user: track, channel, language."""
    parsed = parse_choice(choice.get("track"), choice.get("channel"), choice.get("language"), language_tags)
    peak = max(float(np.abs(block).max()) for block in decode_blocks(io.BytesIO(content), choice=parsed))
    return int(np.argmin(np.abs(np.array(LEVELS) - peak))) + 1


def test_ffmpegs_choice_without_a_language() -> None:
    assert heard(film("ger", "eng", "fre")) == 1
    assert heard(film("ger", "eng", "fre", default=1)) == 2


@pytest.mark.parametrize("language", ["English", "en", "eng", "en-US"])
@pytest.mark.parametrize("tag", ["eng", "en", "en-GB", "EN"])
def test_the_track_in_the_language_that_is_spoken(language: str, tag: str) -> None:
    assert heard(film("ger", tag), language=language) == 2
    assert heard(film(tag, "ger", default=1), language=language) == 1


@pytest.mark.parametrize("beside", [Disposition.visual_impaired, Disposition.comment])
def test_a_commentary_comes_behind_the_film_itself(beside: Disposition) -> None:
    english = {"language": "eng"}
    content = container(
        "matroska",
        Track(tone(0.5, level=LEVELS[0]), tags=english, disposition=beside),
        Track(tone(0.5, level=LEVELS[1]), tags=english),
        Track(tone(0.5, level=LEVELS[2]), tags={"language": "ger"}, disposition=Disposition.default),
    )
    assert heard(content) == 3
    assert heard(content, language="English") == 2
    assert heard(content, track="1") == 1


def test_a_language_that_no_track_has_decides_nothing() -> None:
    assert heard(film("ger", "eng"), language="French") == 1
    assert heard(film("ger", "eng"), language="auto") == 1


@pytest.mark.parametrize("tag", ["deu", "ger", "de"])
@pytest.mark.parametrize("track", ["2", "German", "de", "deu", "ger", "Deutsch"])
def test_a_track_that_is_named(track: str, tag: str) -> None:
    assert heard(film("eng", tag), track=track, language="English") == 2


def test_a_track_in_a_language_that_the_model_does_not_know() -> None:
    assert heard(film("eng", "nor"), track="nor") == 2


def test_load_audio_takes_the_number_or_the_tag() -> None:
    content = film("eng", "ger")
    assert np.abs(load_audio(content, track=2)).max() == pytest.approx(LEVELS[1], abs=0.01)
    assert np.abs(load_audio(content, track="ger")).max() == pytest.approx(LEVELS[1], abs=0.01)


@pytest.mark.parametrize("track", ["0", "3", "fr", "Klingon", "1" * 5000])
def test_a_track_that_is_not_there(track: str) -> None:
    content = container(
        "matroska",
        Track(tone(0.1), tags={"language": "eng", "title": "Director's cut"}),
        Track(np.zeros((1600, 2), np.float32), layout="stereo", codec="flac"),
    )
    with pytest.raises(AudioError) as caught:
        heard(content, track=track)
    assert """it has 1 (eng, "Director's cut", pcm_s16le, 1 channel); 2 (""" in str(caught.value)
    assert "flac, 2 channels): give one of these" in str(caught.value)


@pytest.mark.parametrize("level", [0.0, 4e-4])
def test_a_silent_track_is_passed_over(level: float, caplog: pytest.LogCaptureFixture) -> None:
    content = container(
        "matroska", Track(tone(3, level=level), disposition=Disposition.default), Track(tone(0.5, level=LEVELS[1]))
    )
    assert heard(content) == 2
    assert "Track 1 of The audio is silent" in caplog.text
    assert np.abs(load_audio(content, track=1)).max() < 5e-4  # unless it is named


def test_a_track_whose_sound_comes_late_is_not_silent() -> None:
    late = np.concatenate([tone(3, level=0.0), tone(0.2, level=LEVELS[0])])
    assert (
        heard(container("matroska", Track(late, disposition=Disposition.default), Track(tone(0.5, level=LEVELS[1]))))
        == 1
    )


def test_how_much_is_listened_to_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    late = np.concatenate([tone(3, level=0.0), tone(0.2, level=LEVELS[0])])
    monkeypatch.setattr(tracks, "PROBE_SECONDS", 2.0)
    assert (
        heard(container("matroska", Track(late, disposition=Disposition.default), Track(tone(0.5, level=LEVELS[1]))))
        == 2
    )


def test_if_all_are_silent_the_first_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    content = container("matroska", Track(tone(1, level=0.0)), Track(tone(2, level=0.0)))
    assert len(load_audio(content)) == 16_000


@pytest.mark.parametrize("kind", ["codec", "packets"])
def test_a_track_that_cannot_be_decoded_is_passed_over(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    first = Track(tone(0.5, level=LEVELS[0]), codec="flac", tags={"language": "eng"})
    content = container("matroska", first, Track(tone(0.5, level=LEVELS[1])))
    damaged = content.replace(b"A_FLAC", b"A_NONE") if kind == "codec" else content.replace(b"\xff\xf8", b"\0\0")
    assert damaged != content
    assert heard(damaged, language="English") == 2
    assert "Track 1 of The audio cannot be decoded" in caplog.text
    with pytest.raises(AudioError, match=r"cannot be decoded|no audio that can be decoded"):
        heard(damaged, track="1")


def test_a_file_without_a_track_that_can_be_decoded() -> None:
    content = film("eng", "ger").replace(b"A_PCM/INT/LIT", b"A_XXX/INT/LIT")
    with pytest.raises(AudioError, match="format that cannot be decoded"):
        load_audio(content)


def test_the_choice_reads_a_file_again_from_its_beginning(tmp_path: Path) -> None:
    path = save(tmp_path / "film.mkv", container("matroska", Track(tone(1, level=0.0)), Track(tone(1, (0.2,)))))
    assert np.array_equal(load_audio(path), load_audio(path, track=2))
    assert seconds_of(path) == pytest.approx(1, abs=0.05)


def test_empty_texts_choose_nothing() -> None:
    assert parse_choice("", " ", None, language_tags) == parse_choice(None, None, "", language_tags) == SoundChoice()
    assert parse_choice("2", "1", None, language_tags) == SoundChoice(track=2, channel=1)

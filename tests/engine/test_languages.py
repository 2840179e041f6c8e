"""Languages: every code and name that people write for the thirty, and the code of each."""

from __future__ import annotations

import unicodedata

import pytest
from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

from qwen_asr.engine.languages import LANGUAGES, language_code, language_tags, resolve_language
from qwen_asr.errors import UnknownLanguage

# ISO 639-1 (or none), 639-2/B, 639-2/T (the same as 639-3), from the Library of Congress' table.
ISO_639 = """
ar ara ara Arabic; - yue yue Cantonese; zh chi zho Chinese; cs cze ces Czech; da dan dan Danish; nl dut nld Dutch;
en eng eng English; - fil fil Filipino; fi fin fin Finnish; fr fre fra French; de ger deu German; el gre ell Greek;
hi hin hin Hindi; hu hun hun Hungarian; id ind ind Indonesian; it ita ita Italian; ja jpn jpn Japanese;
ko kor kor Korean; mk mac mkd Macedonian; ms may msa Malay; fa per fas Persian; pl pol pol Polish;
pt por por Portuguese; ro rum ron Romanian; ru rus rus Russian; es spa spa Spanish; sv swe swe Swedish;
th tha tha Thai; tr tur tur Turkish; vi vie vie Vietnamese
"""


def test_the_languages_are_those_of_the_model() -> None:
    assert LANGUAGES == LANGUAGE_CODE_TO_NAME
    assert len(LANGUAGES) == 30


def test_every_iso_code_is_understood_and_each_language_has_its_shortest_code() -> None:
    rows = [row.split() for row in ISO_639.split(";")]
    assert {row[-1] for row in rows} == set(LANGUAGES.values())
    for *codes, name in rows:
        for code in (code for code in codes if code != "-"):
            for written in (code, code.upper(), f"{code}-XX", f" {code}_xx.UTF-8 "):
                assert resolve_language(written) == name, written
        assert language_code(name) == next(code for code in codes if code != "-")
        assert resolve_language(name.upper()) == name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("EN-us", "English"),
        ("en_US.UTF-8", "English"),
        ("en-GB-oxendict", "English"),
        ("de_DE@euro", "German"),
        ("de-DE-u-co-phonebk", "German"),
        ("pt-BR", "Portuguese"),
        ("es-419", "Spanish"),
        ("tl", "Filipino"),
        ("fil-PH", "Filipino"),
        ("cmn", "Chinese"),
        ("cmn-Hans-CN", "Chinese"),
        ("zh-CN", "Chinese"),
        ("zh_TW", "Chinese"),
        ("zh-Hant-TW", "Chinese"),
        ("zh-Hant", "Chinese"),
        ("zh-cmn-HK", "Chinese"),
        ("cmn-HK", "Chinese"),
        ("zh-u-rg-hkzzzz", "Chinese"),
        ("zh-x-hk", "Chinese"),
        ("zh-HK", "Cantonese"),
        ("zh_hk", "Cantonese"),
        ("zh-Hant-HK", "Cantonese"),
        ("zh-MO", "Cantonese"),
        ("zh-yue", "Cantonese"),
        ("zh-yue-CN", "Cantonese"),
        ("zho-HK", "Cantonese"),
        ("yue-Hant-CN", "Cantonese"),
        ("pes", "Persian"),
        ("zsm", "Malay"),
        ("arb", "Arabic"),
        ("ms-MY", "Malay"),
        ("in", "Indonesian"),
        ("Mandarin", "Chinese"),
        ("farsi", "Persian"),
        ("Deutsch", "German"),
        ("DEUTSCH", "German"),
        ("中文", "Chinese"),
        ("普通话", "Chinese"),
        ("粤语", "Cantonese"),
        ("廣東話", "Cantonese"),
        ("日本語", "Japanese"),
        ("한국어", "Korean"),
        (unicodedata.normalize("NFD", "한국어"), "Korean"),
        (unicodedata.normalize("NFD", "français"), "French"),
        ("ελληνικά", "Greek"),
        ("РУССКИЙ", "Russian"),
        ("ไทย", "Thai"),
        ("हिन्दी", "Hindi"),
        ("العربية", "Arabic"),
        ("tiếng việt", "Vietnamese"),
    ],
)
def test_tags_locales_and_own_names_are_understood(written: str, name: str) -> None:
    assert resolve_language(written) == name
    assert language_code(written) == language_code(name)


@pytest.mark.parametrize("automatic", [None, "", "  ", "auto", "Automatic", "none", "und", "mul"])
def test_without_a_choice_the_language_is_detected(automatic: str | None) -> None:
    assert resolve_language(automatic) is None
    assert language_code(automatic) is None


@pytest.mark.parametrize(
    "unknown", ["Klingon", "he", "iw", "no", "hr-HR", "english-us", "en us", "en,de", "de-", "-de", "xx-HK", "HK", "e"]
)
def test_an_unknown_language_is_refused_with_the_list(unknown: str) -> None:
    with pytest.raises(UnknownLanguage, match=r"English \(en\)"):
        resolve_language(unknown)
    assert language_code(unknown) is None


def test_a_misspelled_name_gets_a_hint() -> None:
    with pytest.raises(UnknownLanguage, match=r"'Germn'\. Did you mean German\?"):
        resolve_language("Germn")
    with pytest.raises(UnknownLanguage, match=r"Did you mean Spanish\?"):
        resolve_language("espanol")


def test_all_tags_of_a_language() -> None:
    for name in ("German", "de", "deu", "ger", "Deutsch", "de-AT"):
        assert language_tags(name) == {"german", "de", "deu", "ger", "deutsch"}
    assert "zh" not in language_tags("yue")
    assert language_tags("auto") == language_tags("") == language_tags("Klingon") == set()

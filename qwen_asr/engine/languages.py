"""The thirty languages of Qwen3-ASR: the English names that the model was trained with, codes and own names."""

import difflib
import re
import unicodedata

from qwen_asr.errors import UnknownLanguage

# As in transformers' processing_qwen3_asr.py, which takes seconds to import. A test checks that they are the same.
LANGUAGES: dict[str, str] = {
    "ar": "Arabic",
    "yue": "Cantonese",
    "zh": "Chinese",
    "cs": "Czech",
    "da": "Danish",
    "nl": "Dutch",
    "en": "English",
    "fil": "Filipino",
    "fi": "Finnish",
    "fr": "French",
    "de": "German",
    "el": "Greek",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "mk": "Macedonian",
    "ms": "Malay",
    "fa": "Persian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "es": "Spanish",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "vi": "Vietnamese",
}
AUTOMATIC = ("", "auto", "automatic", "none", "und", "mul")
"""What stands for no choice. `und` (undetermined) and `mul` (several) are ISO 639-2's codes for it."""

# Codes of ISO 639-1, 639-2 (B and T) and 639-3, with those of the standard variety (arb, cmn, pes, zsm), BCP 47's
# former codes (in, mo), other English names, and what speakers call the language.
_ALSO: dict[str, str] = {
    "Arabic": "ara, arb, العربية, عربي",
    "Cantonese": "粤语, 粵語, 广东话, 廣東話, 广州话, 廣州話, 白话, 白話",
    "Chinese": "zho, chi, cmn, Mandarin, Mandarin Chinese, 中文, 汉语, 漢語, 普通话, 普通話, 国语, 國語, 华语, 華語",
    "Czech": "ces, cze, čeština, česky",
    "Danish": "dan, dansk",
    "Dutch": "nld, dut, Flemish, Nederlands, Vlaams",
    "English": "eng",
    "Filipino": "tl, tgl, Tagalog, Pilipino, Wikang Filipino",
    "Finnish": "fin, suomi",
    "French": "fra, fre, français",
    "German": "deu, ger, Deutsch",
    "Greek": "ell, gre, Ελληνικά",
    "Hindi": "hin, हिन्दी, हिंदी",
    "Hungarian": "hun, magyar",
    "Indonesian": "ind, in, Bahasa Indonesia",
    "Italian": "ita, italiano",
    "Japanese": "jpn, 日本語, にほんご",
    "Korean": "kor, 한국어, 한국말",
    "Macedonian": "mkd, mac, македонски",
    "Malay": "msa, may, zsm, zlm, Bahasa Melayu, Bahasa Malaysia",
    "Persian": "fas, per, pes, prs, Farsi, Dari, فارسی, دری",
    "Polish": "pol, polski",
    "Portuguese": "por, português",
    "Romanian": "ron, rum, mo, mol, Moldavian, română",
    "Russian": "rus, русский",
    "Spanish": "spa, Castilian, español, castellano",
    "Swedish": "swe, svenska",
    "Thai": "tha, ไทย, ภาษาไทย",
    "Turkish": "tur, Türkçe",
    "Vietnamese": "vie, Tiếng Việt",
}
_CANTONESE_REGIONS = ("hk", "mo")  # where people who choose "Chinese" in a phone or a browser speak Cantonese


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().casefold()


_CODES = {name: code for code, name in LANGUAGES.items()}
_NAMES = {_folded(name): name for name in LANGUAGES.values()} | {
    _folded(other): name for name, others in _ALSO.items() for other in [*others.split(", "), _CODES[name]]
}


def resolve_language(language: str | None) -> str | None:
    """A name or a code, in any case ("English", "en", "eng", "Deutsch", "pt-BR", "zh_TW") → "English"; "auto" → None.

    Codes are those of ISO 639-1 to 639-3, alone or at the beginning of a BCP 47 tag or a locale ("de_DE.UTF-8"). `zh`
    with the region HK or MO is Cantonese. Names are English or the language's own. None and "" are None too.

    Raises `UnknownLanguage` with the list of known languages.
    """
    wanted = _folded(language or "")
    if wanted in AUTOMATIC:
        return None
    name = _NAMES.get(wanted) or _by_tag(wanted)
    if name is None:
        known = ", ".join(f"{name} ({code})" for code, name in LANGUAGES.items())
        names = [key for key in _NAMES if len(key) > 3]  # many codes are similar to any short word
        similar = difflib.get_close_matches(wanted, names, n=1)
        hint = f" Did you mean {_NAMES[similar[0]]}?" if similar else ""
        raise UnknownLanguage(
            f"Unknown language {language!r}.{hint} Give one of: {known}; or leave it out to detect it."
        )
    return name


def language_code(name: str | None) -> str | None:
    """The code of a language: "German" → "de", "Cantonese" → "yue". None for None and for what is no known language.

    The code is that of ISO 639-1, or of 639-3 for Cantonese and Filipino: BCP 47 has the same. Takes all that
    `resolve_language` takes.
    """
    folded = _folded(name or "")
    known = _NAMES.get(folded) or _by_tag(folded)
    return _CODES[known] if known else None


def language_tags(name: str) -> frozenset[str]:
    """All codes and names of a language, in lower case: "German" → {"de", "deu", "ger", "german", "deutsch"}.

    Takes all that `resolve_language` takes; for what is no known language the set is empty. Players and files tag a
    track with any of these.
    """
    folded = _folded(name)
    known = _NAMES.get(folded) or _by_tag(folded)
    return frozenset(tag for tag, language in _NAMES.items() if language == known)


def _by_tag(tag: str) -> str | None:
    """The language of a BCP 47 tag or a POSIX locale in lower case, or None."""
    code, *subtags = re.sub(r"[.@].*", "", tag).replace("_", "-").split("-")
    if not all(re.fullmatch("[a-z0-9]{1,8}", subtag) for subtag in (code, *subtags)):
        return None
    singleton = next((index for index, subtag in enumerate(subtags) if len(subtag) == 1), len(subtags))
    subtags = subtags[:singleton]  # behind it come extensions, such as a calendar
    if code in ("zh", "zho", "chi") and subtags:
        region = next((subtag for subtag in subtags if len(subtag) == 2), "")
        if subtags[0] == "yue" or (region in _CANTONESE_REGIONS and subtags[0] != "cmn"):
            return "Cantonese"
    return _NAMES.get(code) if len(code) <= 3 else None

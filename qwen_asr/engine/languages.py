"""The thirty languages of Qwen3-ASR: their codes, and the English names that the model was trained with."""

import difflib

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
AUTOMATIC = ("", "auto", "automatic", "none")


def resolve_language(language: str | None) -> str | None:
    """A code or a name, in any case ("en", "EN-us", "english"), → "English"; None, "" and "auto" → None.

    Raises `UnknownLanguage` with the list of known languages.
    """
    wanted = (language or "").strip().lower()
    if wanted in AUTOMATIC:
        return None
    by_name = {name.lower(): name for name in LANGUAGES.values()}
    name = by_name.get(wanted) or LANGUAGES.get(wanted) or LANGUAGES.get(wanted.replace("_", "-").split("-")[0])
    if name is None:
        known = ", ".join(f"{name} ({code})" for code, name in LANGUAGES.items())
        similar = difflib.get_close_matches(wanted, by_name, n=1)
        hint = f" Did you mean {by_name[similar[0]]}?" if similar else ""
        raise UnknownLanguage(
            f"Unknown language {language!r}.{hint} Give one of: {known}; or leave it out to detect it."
        )
    return name

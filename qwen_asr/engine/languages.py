"""The thirty languages of Qwen3-ASR, by code and by the English name that the model was trained with."""

from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

from qwen_asr.errors import UnknownLanguage

LANGUAGES: dict[str, str] = dict(sorted(LANGUAGE_CODE_TO_NAME.items(), key=lambda item: item[1]))
AUTOMATIC = ("", "auto", "automatic", "none")


def resolve_language(language: str | None) -> str | None:
    """A code or a name, in any case ("en", "EN-us", "english"), → "English"; None, "" and "auto" → None.

    Raises `UnknownLanguage`, which lists what is known.
    """
    wanted = (language or "").strip().lower()
    if wanted in AUTOMATIC:
        return None
    by_name = {name.lower(): name for name in LANGUAGES.values()}
    name = by_name.get(wanted) or LANGUAGES.get(wanted) or LANGUAGES.get(wanted.replace("_", "-").split("-")[0])
    if name is None:
        known = ", ".join(f"{name} ({code})" for code, name in LANGUAGES.items())
        raise UnknownLanguage(f"Unknown language {language!r}. Give one of: {known}; or leave it out to detect it.")
    return name

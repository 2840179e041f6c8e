"""The names of the checkpoints, and what the `config.json` of one says. There is no torch here."""

import json
from pathlib import Path
from typing import Any, Literal

from qwen_asr.errors import BadCheckpoint, CheckpointNotFound

DEMO_FOLDER = Path(__file__).parents[2] / "demo" / "checkpoint"
LARGE, SMALL = "Qwen/Qwen3-ASR-1.7B", "Qwen/Qwen3-ASR-0.6B"
ALIGNER = "Qwen/Qwen3-ForcedAligner-0.6B"
LARGE_NEEDS_BYTES = 6 * 1024**3  # 1.7 billion weights in 16 bits, and memory for sessions

Kind = Literal["recognizer", "aligner"]
KINDS: dict[str, Kind] = {LARGE: "recognizer", SMALL: "recognizer", ALIGNER: "aligner"}
"""The kinds of the checkpoints whose names are known here."""


def automatic_names(fits_large: bool) -> tuple[str, ...]:
    """What "auto" tries, in order. fits_large: whether the device has the memory that `LARGE` needs."""
    return (LARGE, SMALL) if fits_large else (SMALL,)


def read_config(folder: Path, wanted: str = "a Qwen3-ASR checkpoint") -> dict[str, Any]:
    """`config.json` of the checkpoint in `folder`, which should hold what is `wanted`.

    Raises `CheckpointNotFound` or `BadCheckpoint`.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointNotFound(
            f"{folder} is not a checkpoint: it has no config.json. Give the folder or the id of {wanted}."
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadCheckpoint(f"{file} is not valid JSON ({error}). Fetch or copy the checkpoint again.") from error
    if not isinstance(config, dict):
        raise BadCheckpoint(f"{file} holds no JSON object. Fetch or copy the checkpoint again.")
    return config


def kind_of(config: dict[str, Any]) -> Kind | None:
    """What a `config.json` in transformers' or Qwen's layout describes; None if it is another model."""
    thinker = config.get("thinker_config") or {}
    if "classify_num" in thinker or "Qwen3ASRForTokenClassification" in (config.get("architectures") or ()):
        return "aligner"
    # Qwen's layout may do without the type. Qwen's other models have a `thinker_config` too.
    is_asr = config.get("model_type", "qwen3_asr" if thinker else None) == "qwen3_asr"
    return "recognizer" if is_asr else None

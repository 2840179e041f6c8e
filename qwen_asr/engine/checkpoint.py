"""Loads a checkpoint: from the hub, a folder, Qwen's original layout, or the bundled demo checkpoint.

The original layout (`Qwen/Qwen3-ASR-0.6B`) keeps its weights under `thinker.` and its configuration under
`thinker_config`. They are renamed as in transformers' `convert_qwen3_asr_to_hf.py`.
"""

import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    GenerationConfig,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from qwen_asr.engine.decoder.int8 import int8_is_faster
from qwen_asr.engine.hub.checkpoints import (
    DEMO_FOLDER,
    LARGE_NEEDS_BYTES,
    SMALL,
    automatic_names,
    kind_of,
    read_config,
)
from qwen_asr.engine.hub.download import Hub, Progress, fetch, offline_variable
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.errors import BadCheckpoint, BadConfig, CheckpointError, CheckpointNotFound, WrongArchitecture

logger = logging.getLogger(__name__)

RENAMED = {
    r"^thinker\.model\.": "model.language_model.",
    r"^thinker\.lm_head\.": "lm_head.",
    r"^thinker\.audio_tower\.proj1\.": "model.multi_modal_projector.linear_1.",
    r"^thinker\.audio_tower\.proj2\.": "model.multi_modal_projector.linear_2.",
    r"^thinker\.audio_tower\.": "model.audio_tower.",
}
AUDIO_KEYS = (
    "num_mel_bins",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "d_model",
    "activation_function",
    "scale_embedding",
    "n_window",
    "output_dim",
    "n_window_infer",
    "downsample_hidden_size",
)
TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "attention_bias",
    "tie_word_embeddings",
)
TOKEN_NAMES = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}

# Renders what Qwen3-ASR's own template does: one system message (the context), one user message (the audio), and the
# assistant message, if any, for transformers' `apply_chat_template(continue_final_message=True)`.
CHAT_TEMPLATE = """
{%- macro text_of(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}{%- for part in content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{{- '<|im_start|>system\\n' -}}
{%- for message in messages if message.role == 'system' -%}{{- text_of(message.content) -}}{%- endfor -%}
{{- '<|im_end|>\\n<|im_start|>user\\n' -}}
{%- for message in messages if message.content is not string -%}
{%- for part in message.content if part.type == 'audio' -%}
{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}
{%- endfor -%}{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- for message in messages if message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' + text_of(message.content) + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
""".strip()


@dataclass(frozen=True)
class Source:
    """A checkpoint on disk: its `folder`, and the `name` that people are shown."""

    folder: Path
    name: str
    is_demo: bool = False

    @property
    def bytes(self) -> int:
        """The size of its weights on disk."""
        return sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))


def load_recognizer(
    path: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
    *,
    quantize: str = "none",
    allow_demo: bool = True,
    hub: Hub | None = None,
    memory_share: float = 1.0,
) -> Recognizer:
    """Find, fetch and load a checkpoint.

    path: a hub id, a folder, "demo", or "auto": the largest Qwen3-ASR that the device has memory for; where none can be
    fetched the demo, or an error without `allow_demo`. A checkpoint that is named is never replaced by another.
    device: "auto", "cuda", "cuda:1", "mps", "cpu". dtype: "auto", "bfloat16", "float16", "float32".
    progress: called with one line for people at each stage. quantize: "int8" for int8 weights in the decoder, on a CPU;
    "auto" for these where they are measurably faster on this machine, but never for the demo; "none". hub: how it is
    fetched. memory_share: how much of the memory that a KV pool may have is for this model; the rest is for others.

    Raises `CheckpointNotFound`, `WrongArchitecture`, `BadCheckpoint`, and `BadConfig` for an unknown dtype or a device
    that this machine does not have.
    """
    report = progress or logger.info
    loaded = load_checkpoint(path, device, dtype, report, allow_demo=allow_demo, hub=hub)
    quantized = pick_quantization(quantize, loaded.model, loaded.source)
    if quantized:
        report(f"Converting the decoder of {loaded.source.name} to int8")
    recognizer = loaded.recognizer(quantized=quantized, memory_share=memory_share)
    recognizer.capture_graphs(report)
    return recognizer


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint with its weights on a device. `model` and `processor` are transformers' own."""

    source: Source
    model: Any
    processor: Any

    def recognizer(self, *, quantized: bool = False, memory_share: float = 1.0) -> Recognizer:
        """The recognizer of these weights. It takes memory of their device for the keys and values of its decoder."""
        return Recognizer(
            self.model,
            self.processor,
            self.source.name,
            is_demo=self.source.is_demo,
            quantized=quantized,
            memory_share=memory_share,
        )


def load_checkpoint(
    path: str,
    device: str,
    dtype: str,
    report: Progress,
    *,
    allow_demo: bool = True,
    hub: Hub | None = None,
) -> LoadedCheckpoint:
    """Find, fetch and load a checkpoint onto a device, without a recognizer yet: see `load_recognizer`."""
    torch_device = pick_device(device)
    source = find(path, torch_device, report, allow_demo, hub)
    read_config(source.folder)  # fails before "Loading" is reported
    precision = pick_dtype(dtype, torch_device, source)
    number_format = str(precision).removeprefix("torch.")
    report(f"Loading {source.name} ({source.bytes / 1e6:.0f} MB) on {torch_device} in {number_format}")
    with unreadable(source.folder):
        model, processor = _load(source.folder, precision)
    report(f"Moving {source.name} to {torch_device}")
    return LoadedCheckpoint(source, model.to(torch_device), processor)


@contextlib.contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    """Raises `BadCheckpoint` for what transformers raises in the block, which reads the checkpoint in `folder`."""
    try:
        yield
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadCheckpoint(
            f"The checkpoint in {folder} cannot be loaded ({reason}). Fetch or copy it again."
        ) from error


def find(path: str, device: torch.device, report: Progress, allow_demo: bool = True, hub: Hub | None = None) -> Source:
    """The checkpoint called `path`, fetched from the hub if it is not cached; see `load_recognizer`."""
    if path == "demo":
        return Source(DEMO_FOLDER, "demo", is_demo=True)
    if path != "auto":
        return find_named(path, report, hub or Hub())
    for name in automatic_names(_fits_large(device)):
        try:
            return Source(fetch(name, report, hub or Hub(), "--asr-model-path"), name)
        except CheckpointNotFound as error:
            logger.log(logging.WARNING if allow_demo else logging.INFO, "%s", error)
    if not allow_demo:
        variable = offline_variable()
        remedy = f"unset {variable}, which forbids it" if variable else "check the network"
        raise CheckpointNotFound(
            f"No Qwen3-ASR weights are cached and none can be fetched from the Hugging Face hub: {remedy}, give a "
            "folder with --asr-model-path, or --asr-model-path demo to try the small bundled checkpoint."
        )
    report("No Qwen3-ASR weights are cached and none can be fetched: using the bundled demo checkpoint")
    return Source(DEMO_FOLDER, "demo", is_demo=True)


def find_named(path: str, report: Progress, hub: Hub, example: str = SMALL, option: str = "--asr-model-path") -> Source:
    """The checkpoint in the folder or with the hub id `path`. Errors name an `example` of an id, and the `option`."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return Source(folder, folder.resolve().name)
    if folder.exists():
        raise CheckpointNotFound(f"{path} is a file. Give the folder with config.json and the weights, or a hub id.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", path) or path.startswith("."):
        raise CheckpointNotFound(f"There is no folder {path}. Give an existing folder, or a hub id such as {example}.")
    return Source(fetch(path, report, hub, option), path)


def pick_device(device: str) -> torch.device:
    """ "auto" → CUDA, else MPS, else CPU. Raises `BadConfig` for a device that this machine does not have.

    In the main process of a ZeroGPU Space, which only pretends to have a GPU, "auto" is not CUDA. "cuda" is: weights
    that are put there go to the GPU of the processes that have one.
    """
    if device == "auto":
        if torch.cuda.is_available() and not cuda_is_emulated():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch_device = torch.device(device)
    except RuntimeError as error:
        raise BadConfig(f"Unknown device {device!r}. Give auto, cuda, cuda:N, mps or cpu.") from error
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(torch_device.type, torch_device.type != "cpu"):
        raise BadConfig(
            f"This machine has no {torch_device.type} that PyTorch can use. Give cpu or auto for the device."
        )
    return torch_device


def cuda_is_emulated() -> bool:
    """Whether the package `spaces` has replaced torch's functions for CUDA, as it does where a Space has ZeroGPU.

    It puts torch's own back in the processes that it forks, where there is a GPU.
    """
    return torch.cuda.is_available.__module__.partition(".")[0] == "spaces"


def pick_dtype(dtype: str, device: torch.device, source: Source) -> torch.dtype:
    """ "auto" → 16 bits where the device is quick with them, else float32; always float32 for the demo."""
    names = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if dtype != "auto":
        if dtype not in names:
            raise BadConfig(f"Unknown dtype {dtype!r}. Give auto, {', '.join(names)}.")
        return names[dtype]
    if source.is_demo:
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "mps":
        return torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def pick_quantization(quantize: str, model: Any, source: Source) -> bool:
    """Whether the decoder gets int8 weights; see `load_recognizer`. Times both forms for "auto"."""
    on_cpu = model.device.type == "cpu"
    if quantize == "auto":
        gate = model.model.language_model.layers[0].mlp.gate_proj.weight
        return on_cpu and not source.is_demo and int8_is_faster(gate, time.perf_counter)
    if quantize not in ("int8", "none"):
        raise BadConfig(f"Unknown quantization {quantize!r}. Give auto, int8 or none.")
    if quantize == "int8" and not on_cpu:
        raise BadConfig(f"int8 weights are for the CPU, not for {model.device.type}: give --quantize none.")
    return quantize == "int8"


def _fits_large(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] > LARGE_NEEDS_BYTES
    return device.type == "mps"


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    config = read_config(folder)
    kind = kind_of(config)
    if kind is None:
        found = config.get("model_type") or config.get("architectures") or "unknown"
        raise WrongArchitecture(f"{folder} holds a checkpoint of type {found}, not qwen3_asr. Give a Qwen3-ASR one.")
    if kind == "aligner":
        raise WrongArchitecture(
            f"{folder} holds a forced aligner, not a Qwen3-ASR recognizer. Give the folder or the id of a Qwen3-ASR "
            "checkpoint."
        )
    if "thinker_config" in config:
        return _load_original(folder, config, dtype)
    model = load_weights(Qwen3ASRForConditionalGeneration, folder, dtype=dtype)
    return model, Qwen3ASRProcessor.from_pretrained(folder)


def load_weights(kind: Any, folder: Path, **options: Any) -> Any:
    """A model of the class `kind` with all its weights: for missing ones transformers only warns, and takes random."""
    enabled = is_progress_bar_enabled()
    disable_progress_bar()  # `progress` reports it; a bar on the server's terminal would break the log
    try:
        loaded: Any = kind.from_pretrained(folder, output_loading_info=True, **options)
    finally:
        if enabled:
            enable_progress_bar()
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise BadCheckpoint(
            f"The checkpoint in {folder} lacks {len(missing)} weights (the first is {missing[0]}). Fetch it again."
        )
    return model


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of the first 64 values of each tensor: tells fine-tuned weights from others without reading them all."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        first = tensor.detach().flatten()[:64].to("cpu", torch.float64)
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode() + first.numpy().tobytes())
    return digest.hexdigest()


def _load_original(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> tuple[Any, Any]:
    converted = convert_config(config["thinker_config"])
    kind = Qwen3ASRForConditionalGeneration
    model = load_weights(kind, folder, config=converted, dtype=dtype, key_mapping=RENAMED)
    tokenizer, extractor = load_original_parts(folder, converted)
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.convert_tokens_to_ids(token) for token in ("<|endoftext|>", "<|im_end|>")],
        pad_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        do_sample=False,
    )
    return model, Qwen3ASRProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE)


def load_original_parts(folder: Path, config: Qwen3ASRConfig) -> tuple[Any, Any]:
    """The tokenizer and the feature extractor of a checkpoint in the original layout."""
    tokenizer = Qwen2Tokenizer.from_pretrained(folder, extra_special_tokens=TOKEN_NAMES)
    audio: Any = config.audio_config
    return tokenizer, Qwen3ASRFeatureExtractor(feature_size=audio.num_mel_bins)


def convert_config(thinker: dict[str, Any], **more: Any) -> Qwen3ASRConfig:
    """`thinker_config` of the original layout, as transformers' configuration, and `more` values for that."""
    audio, text = thinker["audio_config"], thinker["text_config"]
    text_config = {key: text[key] for key in TEXT_KEYS if key in text}
    tied = text_config.setdefault("tie_word_embeddings", thinker.get("tie_word_embeddings", True))
    return Qwen3ASRConfig(
        audio_config={key: audio[key] for key in AUDIO_KEYS if key in audio},
        text_config=text_config,
        tie_word_embeddings=tied,
        **({"audio_token_id": thinker["audio_token_id"]} if "audio_token_id" in thinker else {}),
        **more,
    )

"""The arguments of `from_pretrained` and `LLM`: what of transformers and vLLM matters here, and what is ignored."""

import difflib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from qwen_asr.config.config import DTYPE_SYNONYMS
from qwen_asr.engine.hub.download import Hub
from qwen_asr.errors import BadInput

log = logging.getLogger(__name__)

HUB_ARGUMENTS = tuple(field.name for field in fields(Hub))
SYNONYMS = {
    "torch_dtype": "dtype",  # transformers before version 5
    "use_auth_token": "token",  # transformers before version 5
    "download_dir": "cache_dir",  # vLLM
    "hf_token": "token",  # vLLM
}
AUTOMATIC_DEVICES = ("auto", "balanced", "balanced_low_0", "sequential")
IGNORED = frozenset(
    {
        "adapter_kwargs",
        "attn_implementation",
        "code_revision",
        "config",
        "device_mesh",
        "distributed_config",
        "experts_implementation",
        "fix_mistral_regex",
        "generation_config",
        "ignore_mismatched_sizes",
        "key_mapping",
        "load_in_4bit",
        "load_in_8bit",
        "low_cpu_mem_usage",
        "max_memory",
        "mirror",
        "offload_buffers",
        "offload_folder",
        "offload_state_dict",
        "proxies",
        "quantization_config",
        "resume_download",
        "tp_plan",
        "tp_size",
        "trust_remote_code",
        "use_cache",
        "use_fast",
        "use_flash_attention_2",
        "use_kernels",
        "use_safetensors",
        "variant",
        "weights_only",
    }
)
"""Arguments of transformers' `from_pretrained` without a meaning here: the engine has its own attention, loads
safetensors alone, runs no code of a checkpoint, and keeps a model on one device."""


@dataclass(frozen=True)
class LoadOptions:
    """Where a checkpoint comes from and where it goes; `device` and `dtype` as in `checkpoint.load_recognizer`."""

    device: str
    dtype: str
    hub: Hub


def read_load_options(
    caller: str,
    device_map: Any,
    dtype: Any,
    given: Mapping[str, Any],
    own: Collection[str],
    *,
    ignore_unknown: bool = False,
) -> LoadOptions:
    """The options in the arguments of a program. What is ignored is named in one line of the log.

    caller: the method, for messages. given: the arguments beyond `own`, which are those of the method itself.
    ignore_unknown: whether all others are ignored, for vLLM has hundreds. Raises `BadInput` for an unknown argument,
    and even then for one that is nearly the name of a known one; and for a device or type that cannot be meant.
    """
    arguments = {SYNONYMS.get(name, name): value for name, value in given.items()}
    hub = {name: arguments.pop(name, None) for name in HUB_ARGUMENTS}
    older = arguments.pop("dtype", None)  # from `torch_dtype`
    known = [*own, *HUB_ARGUMENTS]
    for name in arguments.keys() - IGNORED:
        # Of vLLM's own names, such as "quantization", none is so near to one of ours.
        similar = difflib.get_close_matches(name, known, n=1, cutoff=0.9 if ignore_unknown else 0.6)
        if similar or not ignore_unknown:
            hint = f"did you mean {similar[0]}?" if similar else f"it takes {', '.join(known)}."
            raise BadInput(f"{caller} does not know the argument {name}: {hint}")
    if ignored := sorted(name for name, value in arguments.items() if value is not None):
        log.info("%s: %s: accepted for compatibility; ignored.", caller, ", ".join(ignored))
    fetched = Hub(**{name: value for name, value in hub.items() if value is not None})
    return LoadOptions(_device(device_map), _dtype(older if dtype in (None, "auto") else dtype), fetched)


def _dtype(given: Any) -> str:
    """transformers' `dtype` as a name: a type of PyTorch, its name, or a short one."""
    name = str(given or "auto").removeprefix("torch.")
    return DTYPE_SYNONYMS.get(name, name)


def _device(given: Any) -> str:
    """transformers' `device_map` as the name of one device."""
    if isinstance(given, Mapping):
        devices = {_device(device) for device in given.values()}
        if len(devices) != 1:
            raise BadInput(
                f"device_map names {len(devices)} devices; expected one, such as cuda:0: a model is not split."
            )
        return devices.pop()
    if isinstance(given, int):
        return f"cuda:{given}"
    return "auto" if given is None or str(given) in AUTOMATIC_DEVICES else str(given)

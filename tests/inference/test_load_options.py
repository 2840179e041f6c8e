"""What of transformers' and vLLM's arguments matters, what is ignored, and what is a mistake."""

import logging
from typing import Any

import pytest
import torch

from qwen_asr.engine.hub.download import Hub
from qwen_asr.errors import BadInput
from qwen_asr.inference.load_options import LoadOptions, read_load_options
from qwen_asr.inference.qwen3_asr import OWN_ARGUMENTS


def read(device_map: Any = None, dtype: Any = "auto", *, llm: bool = False, **arguments: Any) -> LoadOptions:
    return read_load_options("caller", device_map, dtype, arguments, OWN_ARGUMENTS, ignore_unknown=llm)


@pytest.mark.parametrize(
    ("given", "device"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("balanced", "auto"),
        ("cuda:1", "cuda:1"),
        (1, "cuda:1"),
        (torch.device("cpu"), "cpu"),
        ({"": "cuda:0"}, "cuda:0"),
        ({"": 0}, "cuda:0"),
        ({"thinker": "cpu", "lm_head": torch.device("cpu")}, "cpu"),
    ],
)
def test_device_map(given: Any, device: str) -> None:
    assert read(given).device == device


def test_a_model_is_not_split_over_devices() -> None:
    with pytest.raises(BadInput, match="names 2 devices"):
        read({"a": 0, "b": 1})


@pytest.mark.parametrize(
    ("arguments", "dtype"),
    [
        ({}, "auto"),
        ({"dtype": None}, "auto"),
        ({"dtype": torch.bfloat16}, "bfloat16"),
        ({"dtype": "torch.float16"}, "float16"),
        ({"dtype": "half"}, "float16"),
        ({"dtype": "bf16"}, "bfloat16"),
        ({"torch_dtype": torch.float32}, "float32"),
        ({"torch_dtype": "auto"}, "auto"),
        ({"dtype": "float32", "torch_dtype": "float16"}, "float32"),
    ],
)
def test_dtype(arguments: dict[str, Any], dtype: str) -> None:
    assert read(**arguments).dtype == dtype


def test_the_hub_gets_its_arguments() -> None:
    given: dict[str, Any] = {"cache_dir": "/c", "revision": "v1", "token": "hf_…", "local_files_only": True}
    assert read(**given, force_download=None).hub == Hub(**given)
    assert read(use_auth_token=True).hub == Hub(token=True)
    of_vllm: dict[str, Any] = {"download_dir": "/c", "hf_token": "hf_…"}
    assert read(llm=True, **of_vllm).hub == Hub("/c", token=given["token"])


def test_what_has_no_meaning_is_named_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read(attn_implementation="flash_attention_2", trust_remote_code=True, low_cpu_mem_usage=None)
    assert caplog.messages == ["caller: attn_implementation, trust_remote_code: accepted for compatibility; ignored."]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        read(llm=True, max_num_seqs=8, quantization="fp8", tokenizer_revision="v1", max_model_len=9, device="cuda")
        read()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(
        "caller: device, max_model_len, max_num_seqs, quantization, tokenizer_revision"
    )


@pytest.mark.parametrize(
    ("name", "similar", "llm"),
    [
        ("device", "device_map", False),
        ("max_new_token", "max_new_tokens", False),
        ("max_new_token", "max_new_tokens", True),
        ("forced_aligner_kwarg", "forced_aligner_kwargs", True),
        ("cachedir", "cache_dir", False),
    ],
)
def test_a_mistyped_name_gets_the_right_one(name: str, similar: str, llm: bool) -> None:
    with pytest.raises(BadInput, match=f"does not know the argument {name}: did you mean {similar}?"):
        read(llm=llm, **{name: 1})


def test_an_unknown_argument_of_from_pretrained_gets_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"gpu_memory_utilization: it takes forced_aligner, .*cache_dir"):
        read(gpu_memory_utilization=0.8)

"""`qwen-asr-demo`, `qwen-asr-demo-streaming` and `qwen-asr-serve`: the server, with the options of Qwen's own commands.

Each takes all options of the server too. What has no meaning here is ignored, and named in one line of the log.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from qwen_asr.cli import serve
from qwen_asr.config.config import DTYPE_SYNONYMS
from qwen_asr.errors import BadConfig

Options = dict[str, Any]

# Flags of vLLM take no value. All its other options take one or more.
_FLAG = re.compile(r"--(enable|disable|no|use|trust|enforce|skip|allow|return|async|calculate|headless)(-.*)?")
_NOT_MISTYPED = ("--load-format", "--allowed-methods")
"""Options of vLLM that are nearly the names of the server's: `--log-format`, `--allowed-hosts`."""
_VALUE = re.compile(r"[^-].*|-|-\d.*", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command of Qwen's package. `translate` turns its options into the server's, and returns those it ignores."""

    program: str
    description: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    translate: Callable[[Options], list[str]]

    def run(self, options: Options) -> int:
        """Runs the server; returns the exit code. Raises QwenASRError."""
        ignored = options.pop("ignored", []) + self.translate(options)
        if "dtype" in options:
            options["dtype"] = DTYPE_SYNONYMS.get(options["dtype"], options["dtype"])
        return serve.run(options, ignored)


def _add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    section = parser.add_argument_group("options of Qwen's own qwen-asr-demo")
    for flag, dest, metavar, text in (
        ("--asr-checkpoint", "asr_model_path", "PATH", "the same as --asr-model-path"),
        ("--ip", "host", "ADDRESS", "the same as --host"),
        ("--cuda-visible-devices", "cuda_visible_devices", "LIST", "sets CUDA_VISIBLE_DEVICES"),
        ("--backend-kwargs", "backend_kwargs", "JSON", "device_map, dtype and max_new_tokens apply; ignored otherwise"),
        ("--backend", "backend", "NAME", "ignored: there is one engine"),
        ("--aligner-checkpoint", "aligner_model_path", "PATH", "the same as --aligner-model-path"),
        ("--aligner-kwargs", "aligner_kwargs", "JSON", "ignored"),
        ("--concurrency", "concurrency", "N", "ignored: see --max-sessions"),
    ):
        _add_value(section, flag, dest, metavar, text)
    for flag in ("--no-share", "--ssl-verify", "--no-ssl-verify"):
        section.add_argument(flag, action="append_const", dest="ignored", const=flag, help="ignored")
    parser.set_defaults(ignored=[])
    serve.add_arguments(parser)


def _translate_demo(options: Options) -> list[str]:
    ignored = _drop(options, "backend", "aligner_kwargs", "concurrency")
    index = "0"
    for name, value in _json_object("--backend-kwargs", options.pop("backend_kwargs", "")).items():
        if name == "device_map" and isinstance(value, str):
            kind, _, number = value.partition(":")
            options.setdefault("device", kind)
            index = number or index
        elif name in ("dtype", "torch_dtype"):
            options.setdefault("dtype", str(value).removeprefix("torch."))
        elif name == "max_new_tokens":
            options.setdefault(name, str(value))
        else:
            ignored.append(f"{name} in --backend-kwargs")
    visible = options.pop("cuda_visible_devices", None) or os.environ.get("CUDA_VISIBLE_DEVICES")
    if index != "0":  # the server takes the first device that it sees
        seen = {str(place): name for place, name in enumerate(visible.split(","))} if visible else {index: index}
        if index not in seen or not index.isdecimal():
            raise BadConfig(f"device_map in --backend-kwargs names cuda:{index}, which does not exist: give cuda:0.")
        visible = seen[index]
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible  # torch reads it when it is imported
    return ignored


def _add_streaming_arguments(parser: argparse.ArgumentParser) -> None:
    section = parser.add_argument_group("option of Qwen's own qwen-asr-demo-streaming")
    section.add_argument("--gpu-memory-utilization", metavar="F", default=argparse.SUPPRESS, help="ignored")
    serve.add_arguments(parser)


def _translate_streaming(options: Options) -> list[str]:
    return _drop(options, "gpu_memory_utilization")


def _add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    same = "the same as --asr-model-path"
    parser.add_argument("positional_model", nargs="?", metavar="MODEL", default=argparse.SUPPRESS, help=same)
    section = parser.add_argument_group("options of vllm serve; its others are ignored")
    for flag, dest, metavar, text in (
        ("--model", "asr_model_path", "MODEL", same),
        ("--download-dir", "download_dir", "FOLDER", "where downloads are kept; sets HF_HUB_CACHE"),
        ("--hf-token", "hf_token", "TOKEN", "token for the Hugging Face hub; safer in the environment, as HF_TOKEN"),
        ("--uvicorn-log-level", "log_level", "LEVEL", "the same as --log-level"),
    ):
        _add_value(section, flag, dest, metavar, text)
    serve.add_arguments(parser)


def _add_value(section: argparse._ArgumentGroup, flag: str, dest: str, metavar: str, text: str) -> None:
    action = "append" if dest == "asr_model_path" else "store"  # repeatable under each of its names
    section.add_argument(flag, dest=dest, action=action, metavar=metavar, default=argparse.SUPPRESS, help=text)


def _translate_serve(options: Options) -> list[str]:
    if model := options.pop("positional_model", None):
        options["asr_model_path"] = list(dict.fromkeys([model, *options.get("asr_model_path", [])]))
    if "asr_model_path" not in options and not os.environ.get("QWEN_ASR_MODEL_PATH"):
        raise BadConfig("No model was given: name it first, as in qwen-asr-serve Qwen/Qwen3-ASR-0.6B --port 8000.")
    for name, variable in (("download_dir", "HF_HUB_CACHE"), ("hf_token", "HF_TOKEN")):
        if value := options.pop(name, None):
            os.environ[variable] = value  # huggingface_hub reads it when it is imported
    if "log_level" in options:
        options["log_level"] = {"trace": "debug", "critical": "error"}.get(options["log_level"], options["log_level"])
    if "allowed_origins" in options:  # vLLM's is a list in JSON
        options["allowed_origins"] = [
            origin
            for given in options["allowed_origins"]
            for origin in (_json_list("--allowed-origins", given) if given.startswith("[") else [given])
        ]
    return []


def without_unknown(arguments: Sequence[str], known: Collection[str]) -> tuple[list[str], list[str]]:
    """The arguments without the options that are not `known` and their values; and the names of these options.

    An underscore in an option's name is a hyphen, as for vLLM. Raises `BadConfig` for an option that is nearly the name
    of a known one.
    """
    kept: list[str] = []
    ignored: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if _VALUE.fullmatch(argument) or not argument:
            kept.append(argument)
            continue
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        if name in known:
            kept.append(name + equals + value)
            if not equals and rest and _VALUE.fullmatch(rest[0]):
                kept.append(rest.pop(0))
            continue
        similar = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if similar and name not in _NOT_MISTYPED:
            raise BadConfig(f"Unrecognized arguments: {argument} (did you mean {similar[0]}?): see --help.")
        ignored.append(name)
        while not equals and not _FLAG.fullmatch(name) and rest and _VALUE.fullmatch(rest[0]):
            rest.pop(0)
    return kept, ignored


def _drop(options: Options, *names: str) -> list[str]:
    """Removes these options; the flags of those that were given."""
    return ["--" + name.replace("_", "-") for name in names if options.pop(name, None) is not None]


def _json_object(flag: str, text: str) -> dict[str, Any]:
    value = _json(flag, text) if text.strip() else {}
    if not isinstance(value, dict):
        raise BadConfig(f"{flag} was given {text!r}, but expects an object in JSON, such as {{}}.")
    return value


def _json_list(flag: str, text: str) -> list[str]:
    value = _json(flag, text)
    return [str(one) for one in value] if isinstance(value, list) else [text]


def _json(flag: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadConfig(f"{flag} was given {text!r}, but that is not valid JSON ({error}).") from None


DEMO = Command(
    "qwen-asr-demo",
    "The page with a microphone: the same as qwen-asr-serve-websocket, with the options of Qwen's own command.",
    """examples:
  %(prog)s --asr-checkpoint Qwen/Qwen3-ASR-0.6B --ip 0.0.0.0 --port 8000
      plain HTTP: browsers allow the microphone on this machine only
  %(prog)s --asr-checkpoint Qwen/Qwen3-ASR-0.6B --generate-self-signed-cert
      HTTPS on all addresses of this machine
""",
    _add_demo_arguments,
    _translate_demo,
)
DEMO_STREAMING = Command(
    "qwen-asr-demo-streaming",
    "The page with a microphone: the same as qwen-asr-serve-websocket, with the options of Qwen's own command.",
    """examples:
  %(prog)s --asr-model-path Qwen/Qwen3-ASR-0.6B --host 0.0.0.0 --port 8000
      plain HTTP: browsers allow the microphone on this machine only
""",
    _add_streaming_arguments,
    _translate_streaming,
)
SERVE = Command(
    "qwen-asr-serve",
    "The OpenAI audio API and the page: the same as qwen-asr-serve-websocket, with the options of vllm serve.",
    """examples:
  %(prog)s Qwen/Qwen3-ASR-0.6B --gpu-memory-utilization 0.8 --host 0.0.0.0 --port 8000
      the memory that is free is used as it is needed
""",
    _add_serve_arguments,
    _translate_serve,
)

"""The commands of Qwen's own package take its options, and those of vllm serve, and start the server."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from qwen_asr.cli import main as cli
from qwen_asr.config.config import Config

Start = Callable[..., Config]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs a command up to the point where the server would start; the Config that it would have."""
    for name in ("CUDA_VISIBLE_DEVICES", "HF_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.setenv(name, "")  # so that what a command sets is undone
    configs: list[Config] = []

    def serve(config: Config) -> int:
        configs.append(config)
        return 0

    monkeypatch.setitem(sys.modules, "qwen_asr.web.app", SimpleNamespace(serve=serve))
    monkeypatch.setattr("qwen_asr.logs.configure", lambda *_: None)

    def run(command: Callable[[list[str]], int], *arguments: str) -> Config:
        assert command([*arguments]) == 0
        return configs.pop()

    return run


def test_the_demo_takes_the_options_of_the_original(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Each command line of the demo in Qwen's README, in one."""
    kwargs = '{"device_map":"cuda:0","dtype":"bfloat16","max_inference_batch_size":8,"max_new_tokens":256}'
    with caplog.at_level(logging.INFO):
        config = start(
            cli.demo, "--asr-checkpoint", "Qwen/Qwen3-ASR-1.7B", "--aligner-checkpoint", "Qwen/Aligner", "--backend",
             "transformers", "--cuda-visible-devices", "1", "--backend-kwargs", kwargs,
            "--aligner-kwargs", '{"device_map":"cuda:0"}', "--ip", "0.0.0.0", "--port", "8001", "--no-ssl-verify",
            "--concurrency", "20", "--no-share",
        )  # fmt: skip  # a command line reads best in lines of its own
    assert config == Config(
        asr_model_path=("Qwen/Qwen3-ASR-1.7B",),
        aligner_model_path="Qwen/Aligner",
        device="cuda",
        dtype="bfloat16",
        max_new_tokens=256,
        host="0.0.0.0",
        port=8001,
    )
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    [line] = [message for message in caplog.messages if "accepted for compatibility; ignored." in message]
    for name in (
        "--backend,",
        "--aligner-kwargs",
        "--concurrency",
        "--no-ssl-verify",
        "max_inference_batch_size in --backend-kwargs",
    ):
        assert name in line


def test_the_demo_is_the_server(start: Start) -> None:
    assert start(cli.demo) == Config()
    assert start(cli.demo, "--share", "--backend-kwargs", " ").share
    several = start(cli.demo, "--asr-checkpoint", "a/b", "--asr-model-path", "small=c/d")
    assert several.asr_model_path == ("a/b", "small=c/d")
    assert start(cli.serve_model, "a/b", "--model", "c/d", "--model", "a/b").asr_model_path == ("a/b", "c/d")
    files = ("--ssl-certfile", "cert.pem", "--ssl-keyfile", "key.pem")
    assert start(cli.demo, *files) == Config(ssl_certfile="cert.pem", ssl_keyfile="key.pem")
    assert start(cli.demo, "--asr-model-path", "demo", "--default-language", "de").default_language == "de"


@pytest.mark.parametrize(
    ("visible", "device_map", "expected"),
    [("", "cuda:1", "1"), ("4,5", "cuda:1", "5"), ("4,5", "cuda:0", "4,5"), ("4,5", "cuda", "4,5"), ("", "cpu", "")],
)
def test_the_device_of_the_demo(start: Start, visible: str, device_map: str, expected: str) -> None:
    config = start(cli.demo, "--cuda-visible-devices", visible, "--backend-kwargs", f'{{"device_map": "{device_map}"}}')
    assert config.device == device_map.partition(":")[0]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


@pytest.mark.parametrize(("given", "dtype"), [("half", "float16"), ("torch.bfloat16", "bfloat16"), ("fp32", "float32")])
def test_the_number_format_of_the_demo(start: Start, given: str, dtype: str) -> None:
    assert start(cli.demo, "--backend-kwargs", f'{{"dtype": "{given}"}}').dtype == dtype


def test_the_streaming_demo_takes_the_options_of_the_original(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        config = start(
            cli.demo_streaming, "--asr-model-path", "Qwen/Qwen3-ASR-1.7B", "--gpu-memory-utilization", "0.9",
            "--host", "0.0.0.0", "--port", "8000", "--unfixed-chunk-num", "4", "--chunk-size-sec", "1.0",
        )  # fmt: skip  # a command line reads best in lines of its own
    assert (config.asr_model_path, config.host, config.port) == (("Qwen/Qwen3-ASR-1.7B",), "0.0.0.0", 8000)
    assert config.chunk_size_sec == 1.0
    assert "--gpu-memory-utilization, --unfixed-chunk-num: accepted for compatibility; ignored." in caplog.messages


def test_serve_takes_the_model_first_and_ignores_the_options_of_vllm(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        config = start(
            cli.serve_model, "Qwen/Qwen3-ASR-1.7B", "--gpu-memory-utilization", "0.8", "--host", "0.0.0.0",
            "--port=8002", "--dtype", "half", "-tp", "2", "--api-key", "secret", "--allowed-origins", '["*"]',
            "--served-model-name", "asr", "whisper-1", "--uvicorn-log-level", "critical", "--seed", "-1",
            "--max_model_len", "4096", "--root_path", "/asr", "--limit-mm-per-prompt={}",
        )  # fmt: skip  # a command line reads best in lines of its own
    assert config == Config(
        asr_model_path=("Qwen/Qwen3-ASR-1.7B",),
        host="0.0.0.0",
        port=8002,
        dtype="float16",
        api_key=("secret",),
        allowed_origins=("*",),
        log_level="error",
        root_path="/asr",
    )
    [line] = [message for message in caplog.messages if "accepted for compatibility; ignored." in message]
    names = ["--gpu-memory-utilization", "-tp", "--served-model-name", "--seed", "--max-model-len"]
    assert line.startswith(", ".join([*names, "--limit-mm-per-prompt: "]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--enforce-eager", "demo", "--port", "1"],
        ["--port", "1", "demo", "--enable-prefix-caching"],
        ["--trust-remote-code", "--model", "demo", "--port", "1"],
        ["--asr-model-path", "demo", "--port", "1", "--disable-log-requests"],
        ["demo", "--port", "1", "--download-dir", "/cache", "--hf-token", "hf_…"],
    ],
)
def test_the_model_may_stand_anywhere(start: Start, arguments: list[str]) -> None:
    assert start(cli.serve_model, *arguments) == Config(asr_model_path=("demo",), port=1)
    if "--hf-token" in arguments:
        assert (os.environ["HF_HUB_CACHE"], os.environ["HF_TOKEN"]) == ("/cache", "hf_…")


OF_VLLM = """
--aggregate-engine-logging --allow-credentials --allowed-headers --allowed-local-media-path --allowed-methods
--api-server-count --async-scheduling --block-size --chat-template --code-revision --compilation-config --config
--cpu-offload-gb --data-parallel-size --disable-fastapi-docs --disable-log-stats --disable-uvicorn-access-log
--distributed-executor-backend --enable-chunked-prefill --enable-log-requests --enforce-eager --generation-config
--h11-max-header-count --hf-config-path --hf-overrides --kv-cache-dtype --limit-mm-per-prompt --load-format
--log-config-file --lora-modules --max-log-len --max-logprobs --max-model-len --max-num-batched-tokens --max-num-seqs
--middleware --mm-processor-kwargs --model-impl --num-gpu-blocks-override --override-generation-config
--pipeline-parallel-size --quantization --response-role --revision --runner --seed --served-model-name
--skip-tokenizer-init --speculative-config --ssl-ca-certs --ssl-cert-reqs --swap-space --task --tensor-parallel-size
--tokenizer --tokenizer-mode --tokenizer-revision --trust-remote-code --uds
"""


def test_no_option_of_vllm_is_taken_for_a_mistyped_one(start: Start) -> None:
    assert start(cli.serve_model, "demo", *OF_VLLM.split()) == Config(asr_model_path=("demo",))


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        (cli.serve_model, ["--port", "8000"], "No model was given"),
        (cli.serve_model, ["demo", "--prot", "8000"], "--prot (did you mean --port?)"),
        (cli.serve_model, ["demo", "--port", "web"], "--port was given 'web'"),
        (cli.serve_model, ["demo", "other"], "Unrecognized arguments: other"),
        (cli.serve_model, ["demo", "--allowed-origins", "["], "not valid JSON"),
        (cli.demo, ["--backend-kwargs", "{"], "not valid JSON"),
        (cli.demo, ["--backend-kwargs", "[1]"], "expects an object in JSON"),
        (cli.demo, ["--backend-kwargs", '{"device_map": "cuda:x"}'], "names cuda:x, which does not exist"),
        (
            cli.demo,
            ["--cuda-visible-devices", "4", "--backend-kwargs", '{"device_map": "cuda:1"}'],
            "names cuda:1, which does not exist",
        ),
        (cli.demo, ["--backend-kwargs", '{"dtype": "int3"}'], "--dtype was given 'int3'"),
        (cli.demo, ["--asr-checkpont", "demo"], "did you mean --asr-checkpoint?"),
        (cli.demo_streaming, ["--asr-checkpoint", "demo"], "Unrecognized arguments: --asr-checkpoint"),
    ],
)
def test_mistakes(
    start: Start,
    capsys: pytest.CaptureFixture[str],
    command: Callable[[list[str]], int],
    arguments: list[str],
    sentence: str,
) -> None:
    assert command(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert sentence in error


@pytest.mark.parametrize("command", [cli.demo, cli.demo_streaming, cli.serve_model])
def test_help_has_examples_and_the_options_of_the_server(
    command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command(["--help"])
    text = capsys.readouterr().out
    assert "\nexamples:\n  qwen-asr-" in text
    assert "--generate-self-signed-cert" in text

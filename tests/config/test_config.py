"""Options: defaults, ranges, the sources of a value, and the generated table."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.config.config import Config
from qwen_asr.config.option_fields import (
    add_options,
    check,
    environment_name,
    flag,
    from_options,
    option,
    option_table,
    unknown_variables,
)
from qwen_asr.errors import BadConfig, HttpsConflict

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
RANGES = [name for name, field in FIELDS.items() if field.metadata["low"] is not None]
CHOICES = [name for name, field in FIELDS.items() if field.metadata["choices"]]


def parsed(*arguments: str, environ: dict[str, str] | None = None) -> Config:
    parser = argparse.ArgumentParser()
    add_options(parser, Config)
    return from_options(Config, vars(parser.parse_args(arguments)), environ or {})


def test_options_that_are_not_given_have_their_defaults() -> None:
    assert parsed() == Config()


@pytest.mark.parametrize(
    ("arguments", "host", "port"),
    [
        ([], "127.0.0.1", 8000),
        (["--generate-self-signed-cert"], "0.0.0.0", 8000),
        (["--generate-self-signed-cert", "--host", "127.0.0.1"], "127.0.0.1", 8000),
        (["--local-ca"], "0.0.0.0", 8000),
        (["--ssl-certfile", "both.pem", "--port", "443"], "0.0.0.0", 443),
        (["--host", "::", "--port", "0"], "::", 0),
    ],
)
def test_plain_http_listens_on_loopback_by_default(arguments: Sequence[str], host: str, port: int) -> None:
    config = parsed(*arguments)
    assert (config.host, config.port) == (host, port)


def test_on_a_space_the_server_listens_on_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/something")
    config = parsed()
    assert (config.host, config.port, config.tls) == ("0.0.0.0", 7860, False)
    with pytest.raises(BadConfig, match="leave the option out"):
        parsed("--generate-self-signed-cert")
    assert not config.on_zero_gpu
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert config.on_zero_gpu


@pytest.mark.parametrize(
    "given",
    [
        ["--generate-self-signed-cert", "--local-ca"],
        ["--generate-self-signed-cert", "--ssl-certfile", "a.pem"],
        ["--local-ca", "--ssl-certfile", "a.pem"],
        ["--ssl-keyfile", "b.pem"],
        ["--share", "--local-ca"],
    ],
)
def test_conflicting_https_options_are_rejected(given: list[str]) -> None:
    with pytest.raises(HttpsConflict, match=r"give .*\.$") as refused:
        parsed(*given)
    assert refused.value.exit_code == 1  # as for errors in certificate files


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["--ssl-certfile", "", "--ssl-keyfile", ""], "--ssl-certfile"),
        (["--ssl-certfile", "a.pem", "--ssl-keyfile", ""], "--ssl-keyfile"),
    ],
)
def test_an_empty_file_name_does_not_disable_https(given: list[str], name: str) -> None:
    with pytest.raises(BadConfig, match=f"{name} was given '', but expects a text that is not empty"):
        parsed(*given)
    assert parsed("--ssl-keyfile-password", "").ssl_keyfile_password is None


def test_the_key_password_can_come_from_the_environment_and_is_not_in_the_repr() -> None:
    environ = {"QWEN_ASR_SSL_KEYFILE_PASSWORD": "secret"}
    assert not parsed(environ=environ).tls  # ignored without a certificate: other programs may use the same environment
    config = parsed("--ssl-certfile", "a.pem", environ=environ)
    assert config.ssl_keyfile_password == environ["QWEN_ASR_SSL_KEYFILE_PASSWORD"]
    assert "secret" not in repr(config)


def test_the_command_line_takes_precedence_over_the_environment() -> None:
    environ = {"QWEN_ASR_PORT": "9000", "QWEN_ASR_MODEL_PATH": "demo", "QWEN_ASR_SHARE": "yes", "QWEN_ASR_DEVICE": ""}
    config = parsed("--port", "9001", environ=environ)
    assert (config.port, config.asr_model_path, config.share, config.device) == (9001, ("demo",), True, "auto")
    assert parsed(environ={"QWEN_ASR_SHARE": "off"}).share is False


def test_an_error_names_the_environment_variable() -> None:
    with pytest.raises(BadConfig, match=r"QWEN_ASR_PORT was given 'web', but expects a whole number from 0 to 65535"):
        parsed(environ={"QWEN_ASR_PORT": "web"})
    with pytest.raises(BadConfig, match="QWEN_ASR_SHARE was given 'maybe'"):
        parsed(environ={"QWEN_ASR_SHARE": "maybe"})
    with pytest.raises(BadConfig, match="QWEN_ASR_QUANTIZE was given 'int4', but expects one of auto, int8, none"):
        parsed(environ={"QWEN_ASR_QUANTIZE": "int4"})
    with pytest.raises(BadConfig, match="QWEN_ASR_PORT was given 70000, but expects a whole number from 0 to 65535"):
        parsed(environ={"QWEN_ASR_PORT": "70000"})


def test_variables_that_match_no_option_are_found() -> None:
    known = {environment_name(field): "1" for field in FIELDS.values()}
    assert unknown_variables(Config, {**known, "PATH": "/bin"}) == ()
    mistyped = {"QWEN_ASR_PROT": "", "QWEN_ASR_HOSTS": "1"}
    assert unknown_variables(Config, {**known, **mistyped}) == ("QWEN_ASR_HOSTS", "QWEN_ASR_PROT")


def config_with(name: str, value: Any) -> Config:
    """A Config with one option set."""
    return Config(**{name: value})


@pytest.mark.parametrize("name", RANGES)
def test_ranges_are_inclusive_and_values_outside_are_rejected(name: str) -> None:
    kind = int if "int" in str(FIELDS[name].type) else float
    low, high = FIELDS[name].metadata["low"], FIELDS[name].metadata["high"]
    for value in (low, high):
        assert getattr(config_with(name, kind(value)), name) == value
    for value in (kind(low - 1), kind(high + 1)):
        with pytest.raises(BadConfig, match=f"{flag(name)} was given {value}.* from .* to "):
            config_with(name, value)


@given(st.sampled_from([name for name in RANGES if FIELDS[name].type == "float"]), st.floats())
def test_a_number_outside_its_range_is_rejected(name: str, value: float) -> None:
    low, high = FIELDS[name].metadata["low"], FIELDS[name].metadata["high"]
    if not math.isnan(value) and low <= value <= high:
        assert getattr(config_with(name, value), name) == value
    else:
        with pytest.raises(BadConfig):
            config_with(name, value)


@pytest.mark.slow
@given(st.sampled_from(sorted(FIELDS)), st.text(max_size=20))
def test_any_text_gives_a_config_or_one_clear_error_message(name: str, text: str) -> None:
    given: Any = True if FIELDS[name].type == "bool" else text
    message = f"{flag(name)} was given nothing wrong."
    try:
        from_options(Config, {name: given}, {})
    except BadConfig as error:
        message = str(error)
    assert message.startswith(f"{flag(name)} was given")
    assert message.endswith(".")


@pytest.mark.parametrize("name", CHOICES)
def test_only_listed_choices_are_accepted(name: str) -> None:
    for value in FIELDS[name].metadata["choices"]:
        assert getattr(parsed(flag(name), value), name) == value
    with pytest.raises(BadConfig, match="expects one of "):
        parsed(flag(name), "other")


@pytest.mark.parametrize("value", [True, "8000", 8000.0])
def test_a_value_of_the_wrong_type_is_rejected(value: Any) -> None:
    with pytest.raises(BadConfig, match="--port"):
        Config(port=value)


def test_an_empty_text_gives_the_default() -> None:
    assert parsed("--default-context", "").default_context is None


def test_a_word_can_stand_for_no_number() -> None:
    assert parsed("--chunk-size-sec", "auto") == parsed(environ={"QWEN_ASR_CHUNK_SIZE_SEC": "auto"}) == Config()
    assert parsed("--chunk-size-sec", "2").chunk_size_sec == 2.0
    with pytest.raises(BadConfig, match=r"was given 'often', but expects a number from 0.1 to 30, or auto"):
        parsed("--chunk-size-sec", "often")
    assert "| `--chunk-size-sec SECONDS` | `auto` |" in option_table(Config)


def test_ignored_options_are_accepted_and_reported() -> None:
    assert Config().unneeded == ()
    assert parsed("--unfixed-chunk-num", "4").unneeded == ("--unfixed-chunk-num",)


def test_each_option_has_a_help_text_and_a_unique_variable() -> None:
    variables = [environment_name(field) for field in FIELDS.values()]
    assert len(set(variables)) == len(FIELDS)
    parser = argparse.ArgumentParser()
    add_options(parser, Config)
    help = parser.format_help()
    for name, field in FIELDS.items():
        assert flag(name) in help
        assert field.metadata["help"]
    assert "None" not in help


def test_the_table_has_a_valid_row_for_each_option() -> None:
    rows = option_table(Config).splitlines()
    assert len(rows) == 2 + len(FIELDS)
    assert all(row.count("|") == 4 for row in rows)
    assert "None" not in option_table(Config)


def test_a_parser_can_have_a_subset_of_the_options() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Config, "device", "dtype")
    assert "--device" in parser.format_help()
    assert "--port" not in parser.format_help()


@dataclasses.dataclass(frozen=True)
class Keyed:
    """Options with a field that is both repeatable and secret."""

    api_key: tuple[str, ...] = option((), "a key", "access", metavar="KEY", secret=True)

    def __post_init__(self) -> None:
        check(dataclasses.fields(self)[0], self.api_key)


@pytest.mark.parametrize(
    ("arguments", "environ", "keys"),
    [
        ([], {}, ()),
        (["--api-key", "one", "--api-key", "two three"], {}, ("one", "two three")),
        ([], {"QWEN_ASR_API_KEY": " one  two"}, ("one", "two")),
        (["--api-key", "one"], {"QWEN_ASR_API_KEY": "two"}, ("one",)),
    ],
)
def test_an_option_can_be_repeated(arguments: Sequence[str], environ: dict[str, str], keys: Any) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Keyed)
    keyed = from_options(Keyed, vars(parser.parse_args(arguments)), environ)
    assert keyed.api_key == keys
    assert not any(key in repr(keyed) for key in keys)
    assert "| `--api-key KEY` | none | a key |" in option_table(Keyed)


def test_an_error_message_does_not_contain_the_secret() -> None:
    with pytest.raises(BadConfig, match="--api-key was given an empty text, but expects one that") as refused:
        from_options(Keyed, {"api_key": ["hunter2", ""]}, {})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "origin",
    [
        *("https://app.example.org", "http://localhost:5173", "http://192.0.2.7:8080", "http://[2001:db8::1]:80"),
        *("chrome-extension://abcdefghijklmnop", "tauri://localhost", "capacitor://localhost", "app://obsidian.md"),
    ],
)
def test_origins_that_can_be_allowed(origin: str) -> None:
    assert parsed("--allowed-origins", origin).allowed_origins == (origin,)
    assert parsed("--allowed-origins", "*", "--api-key", "k").allowed_origins == ("*",)
    assert parsed("--allowed-origins", "*", "--auth", "a:b").allowed_origins == ("*",)


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "app.example.org",
            "https://app.example.org/",
            "https://app.example.org/path",
            "https://user@app.example.org",
        ),
        *("null", "https://", "https://*.example.org", "https://app.example.org:port", "*", "https://a b", "//a", ""),
    ],
)
def test_what_is_no_origin(origin: str) -> None:
    with pytest.raises(BadConfig, match=r"--allowed-origins was given"):
        parsed("--allowed-origins", origin)


def test_origins_come_from_the_environment_too() -> None:
    environ = {"QWEN_ASR_ALLOWED_ORIGINS": "https://a.example tauri://localhost"}
    assert from_options(Config, {}, environ).allowed_origins == ("https://a.example", "tauri://localhost")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"engine": ("http://a",)}, "--engine was given 'http://a', but expects host:port"),
        ({"gpus": "two"}, "--gpus was given 'two', but expects all"),
        ({"engine": ("a",), "gpus": "all"}, "--engine and --gpus were given"),
        ({"engine_api_key": "key"}, "--engine-api-key was given without --engine"),
        ({"engine_ca_certs": "ca.pem"}, "--engine-ca-certs was given without --engine"),
        ({"engine": ("a",), "engine_api_key": "with blank"}, "--engine-api-key was given a value that cannot be sent"),
        ({"engine": ("a",), "device": "cuda"}, "--device cannot be given with --engine, in the environment neither"),
        ({"engine": ("a",), "asr_model_path": ("demo",), "quantize": "int8"}, "--asr-model-path and --quantize cannot"),
        ({"gpus": "0,1", "device": "cpu"}, "--device cpu was given with --gpus 0,1: leave out --device"),
    ],
)
def test_options_of_engines_that_exclude_or_require_each_other(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadConfig, match=re.escape(sentence)):
        Config(**options)


def test_the_key_of_the_engines_is_a_secret() -> None:
    config = Config(engine=("a",), engine_api_key="geheim")
    assert "geheim" in config.secrets
    assert "geheim" not in repr(config)

"""Options: their defaults, their ranges, where a value comes from, and what the README says about them."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.config.config import Config
from qwen_asr.config.options import (
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


def test_what_is_not_given_is_the_default() -> None:
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
def test_plain_http_stays_on_the_machine(arguments: Sequence[str], host: str, port: int) -> None:
    config = parsed(*arguments)
    assert (config.host, config.port) == (host, port)


def test_a_space_is_reached_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/something")
    config = parsed()
    assert (config.host, config.port, config.tls) == ("0.0.0.0", 7860, False)
    with pytest.raises(BadConfig, match="leave the option out"):
        parsed("--generate-self-signed-cert")


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
def test_ways_to_https_that_exclude_each_other(given: list[str]) -> None:
    with pytest.raises(HttpsConflict, match=r"give .*\.$") as refused:
        parsed(*given)
    assert refused.value.exit_code == 1  # as the mistakes that are in files


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["--ssl-certfile", "", "--ssl-keyfile", ""], "--ssl-certfile"),
        (["--ssl-certfile", "a.pem", "--ssl-keyfile", ""], "--ssl-keyfile"),
    ],
)
def test_an_unset_variable_of_the_shell_does_not_take_https_away(given: list[str], name: str) -> None:
    with pytest.raises(BadConfig, match=f"{name} was given '', but expects a text that is not empty"):
        parsed(*given)
    assert parsed("--ssl-keyfile-password", "").ssl_keyfile_password is None


def test_the_password_of_a_key_is_in_no_text_and_may_stand_in_the_environment() -> None:
    environ = {"QWEN_ASR_SSL_KEYFILE_PASSWORD": "secret"}
    assert not parsed(environ=environ).tls  # alone it means nothing: other programs may share the environment
    config = parsed("--ssl-certfile", "a.pem", environ=environ)
    assert config.ssl_keyfile_password == environ["QWEN_ASR_SSL_KEYFILE_PASSWORD"]
    assert "secret" not in repr(config)


def test_the_command_line_wins_over_the_environment() -> None:
    environ = {"QWEN_ASR_PORT": "9000", "QWEN_ASR_MODEL_PATH": "demo", "QWEN_ASR_SHARE": "yes", "QWEN_ASR_DEVICE": ""}
    config = parsed("--port", "9001", environ=environ)
    assert (config.port, config.asr_model_path, config.share, config.device) == (9001, "demo", True, "auto")
    assert parsed(environ={"QWEN_ASR_SHARE": "off"}).share is False


def test_what_is_wrong_in_the_environment_is_named() -> None:
    with pytest.raises(BadConfig, match=r"QWEN_ASR_PORT was given 'web', but expects a whole number from 0 to 65535"):
        parsed(environ={"QWEN_ASR_PORT": "web"})
    with pytest.raises(BadConfig, match="QWEN_ASR_SHARE was given 'maybe'"):
        parsed(environ={"QWEN_ASR_SHARE": "maybe"})


def test_variables_that_are_no_option_are_found() -> None:
    known = {environment_name(field): "1" for field in FIELDS.values()}
    assert unknown_variables(Config, {**known, "PATH": "/bin"}) == ()
    mistyped = {"QWEN_ASR_PROT": "", "QWEN_ASR_HOSTS": "1"}
    assert unknown_variables(Config, {**known, **mistyped}) == ("QWEN_ASR_HOSTS", "QWEN_ASR_PROT")


def config_with(name: str, value: Any) -> Config:
    """A Config with one option set."""
    return Config(**{name: value})


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_a_range_are_allowed_and_nothing_beyond(name: str) -> None:
    kind = int if "int" in str(FIELDS[name].type) else float
    low, high = FIELDS[name].metadata["low"], FIELDS[name].metadata["high"]
    for value in (low, high):
        assert getattr(config_with(name, kind(value)), name) == value
    for value in (kind(low - 1), kind(high + 1)):
        with pytest.raises(BadConfig, match=f"{flag(name)} was given {value}.* from .* to "):
            config_with(name, value)


@given(st.sampled_from([name for name in RANGES if FIELDS[name].type == "float"]), st.floats())
def test_a_number_is_in_its_range_or_refused(name: str, value: float) -> None:
    low, high = FIELDS[name].metadata["low"], FIELDS[name].metadata["high"]
    if not math.isnan(value) and low <= value <= high:
        assert getattr(config_with(name, value), name) == value
    else:
        with pytest.raises(BadConfig):
            config_with(name, value)


@pytest.mark.slow
@given(st.sampled_from(sorted(FIELDS)), st.text(max_size=20))
def test_any_text_makes_a_config_or_one_clear_sentence(name: str, text: str) -> None:
    given: Any = True if FIELDS[name].type == "bool" else text
    message = f"{flag(name)} was given nothing wrong."
    try:
        from_options(Config, {name: given}, {})
    except BadConfig as error:
        message = str(error)
    assert message.startswith(f"{flag(name)} was given")
    assert message.endswith(".")


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_one_of_those_listed(name: str) -> None:
    for value in FIELDS[name].metadata["choices"]:
        assert getattr(parsed(flag(name), value), name) == value
    with pytest.raises(BadConfig, match="expects one of "):
        parsed(flag(name), "other")


@pytest.mark.parametrize("value", [True, "8000", 8000.0])
def test_a_value_of_the_wrong_type_is_refused(value: Any) -> None:
    with pytest.raises(BadConfig, match="--port"):
        Config(port=value)


def test_an_empty_text_is_the_default() -> None:
    assert parsed("--default-context", "").default_context is None


def test_options_for_old_scripts_are_accepted_and_known() -> None:
    assert Config().unneeded == ()
    assert parsed("--unfixed-chunk-num", "4").unneeded == ("--unfixed-chunk-num",)


def test_each_option_has_help_a_group_and_a_variable_of_its_own() -> None:
    variables = [environment_name(field) for field in FIELDS.values()]
    assert len(set(variables)) == len(FIELDS)
    parser = argparse.ArgumentParser()
    add_options(parser, Config)
    help = parser.format_help()
    for name, field in FIELDS.items():
        assert flag(name) in help
        assert field.metadata["help"]
    assert "None" not in help


def test_the_table_has_a_row_for_each_option_and_breaks_in_none() -> None:
    rows = option_table(Config).splitlines()
    assert len(rows) == 2 + len(FIELDS)
    assert all(row.count("|") == 4 for row in rows)
    assert "None" not in option_table(Config)


def test_some_options_only() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Config, "device", "dtype")
    assert "--device" in parser.format_help()
    assert "--port" not in parser.format_help()


@dataclasses.dataclass(frozen=True)
class Keyed:
    """What no option of Config's need be: given several times, and secret."""

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
def test_an_option_may_be_given_several_times(arguments: Sequence[str], environ: dict[str, str], keys: Any) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Keyed)
    keyed = from_options(Keyed, vars(parser.parse_args(arguments)), environ)
    assert keyed.api_key == keys
    assert not any(key in repr(keyed) for key in keys)
    assert "| `--api-key KEY` | none | a key |" in option_table(Keyed)


def test_a_secret_is_in_no_sentence_about_it() -> None:
    with pytest.raises(BadConfig, match="--api-key was given an empty text, but expects one that") as refused:
        from_options(Keyed, {"api_key": ["hunter2", ""]}, {})
    assert "hunter2" not in str(refused.value)

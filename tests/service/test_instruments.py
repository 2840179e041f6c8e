"""Instruments: what is counted, under bounded labels."""

from __future__ import annotations

from qwen_asr.errors import BadConfig
from qwen_asr.service.instruments import Instruments


def test_the_codes_of_errors_are_bounded() -> None:
    instruments = Instruments()
    for error in (ValueError("a"), KeyError("b"), RuntimeError("c"), BadConfig("d")):
        instruments.count(error)
    instruments.count("StepFailed")
    [family] = instruments.errors.collect()
    counts = {sample.labels["code"]: sample.value for sample in family.samples if sample.name.endswith("_total")}
    assert counts == {"QwenASRError": 3, "BadConfig": 1, "StepFailed": 1}


def test_two_services_count_apart() -> None:
    first, second = Instruments(), Instruments()
    first.lag.observe(1.0)
    counts = [
        sample.value
        for instruments in (first, second)
        for family in instruments.collect()
        for sample in family.samples
        if sample.name == "qwen_asr_lag_seconds_count"
    ]
    assert counts == [1, 0]


def test_engines_in_other_processes_are_counted_where_there_are_some() -> None:
    instruments = Instruments()
    assert not [family for family in instruments.collect() if "engine" in family.name]
    instruments.watch_engines(lambda: 2, lambda: 1)
    instruments.watch_engines(lambda: 3, lambda: 0)  # those of another model
    told = {sample.name: sample.value for family in instruments.collect() for sample in family.samples}
    assert (told["qwen_asr_engines"], told["qwen_asr_engines_lost_total"]) == (5, 1)

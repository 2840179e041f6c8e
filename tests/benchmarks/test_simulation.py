"""The simulation of sessions on a GPU: its lags follow from its pass times, and it fits the measured prototype."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.simulation import (
    ENGINE,
    ENGINE_HOST_MS,
    LAUNCHES,
    LIGHT_HOST_MS,
    MEASURED,
    PROTOTYPE,
    PROTOTYPE_HOST_MS,
    main,
    simulate,
)

ALL_LAGS = [key for key, measured in MEASURED.items() if key[1] == PROTOTYPE_HOST_MS and "/" in measured]


def test_a_step_alone_takes_the_time_of_its_passes() -> None:
    once = {kind: sum(LAUNCHES[kind]) for kind in LAUNCHES}
    for before, host in ((PROTOTYPE, 0.0), (ENGINE, 5.0)):
        lags = sorted(1000 * lag for lag in simulate(1, 30, host, before).lags)
        assert len(lags) == 30
        assert lags[0] == pytest.approx(once["encoder"] + once["verify"] + 3 * once["single"] + host)
        assert lags[-1] == pytest.approx(once["encoder"] + once["verify"] + 8 * once["single"] + host)


def test_every_chunk_gets_its_text_under_overload_too() -> None:
    level = simulate(40, 5, 50.0, ENGINE)
    assert len(level.lags) == 40 * 5
    assert min(level.lags) > 0
    assert level.lag(0.5) > 1
    assert level.share(*LAUNCHES, "host") == pytest.approx(100)


@pytest.mark.parametrize(("sessions", "host"), ALL_LAGS)
def test_the_lags_are_near_those_of_the_prototype(sessions: int, host: float) -> None:
    level = simulate(sessions, 10, host, PROTOTYPE)
    p50, p95 = map(float, MEASURED[sessions, host].split(" / "))
    assert level.lag(0.5) == pytest.approx(p50, rel=0.2)
    assert level.lag(0.95) == pytest.approx(p95, rel=0.35)


def test_the_thread_is_loaded_as_on_the_prototype() -> None:
    level = simulate(256, 10, PROTOTYPE_HOST_MS, PROTOTYPE)
    assert level.share("verify", "single") == pytest.approx(57, abs=2)
    assert level.share("encoder") == pytest.approx(19, abs=2)
    assert simulate(384, 10, LIGHT_HOST_MS, PROTOTYPE).share("host") == pytest.approx(12, abs=1)


def test_it_prints_and_writes_both_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tables.md"
    arguments = ["--sessions", "1,8", "--seconds", "10", "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["simulation", *arguments])
    monkeypatch.setattr("benchmarks.simulation.MEASURED", {(256, PROTOTYPE_HOST_MS): "0.20 / 0.43"})
    monkeypatch.setattr("benchmarks.simulation.first_above", lambda *_: 330)
    main()
    text = output.read_text(encoding="utf-8")
    assert capsys.readouterr().out == text
    assert "| 256 | 0.94 | 0.20 / 0.43 | 0.2" in text
    assert text.count(f"\n| 8 | {ENGINE_HOST_MS:g} |") == 1
    assert "at 330 sessions" in text

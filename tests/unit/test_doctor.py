"""The doctor's word on set-ups without servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tidegauge.cli import main

NOBODY = ["--bootstrap-servers", "127.0.0.1:1"]


def test_a_missing_broker_is_one_failure_and_the_other_checks_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", *NOBODY, "--store", "sqlite:///x.db", "--output", "json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert [f["check"] for f in findings if f["state"] == "FAIL"] == ["broker"]
    assert {"store", "disk", "prices"} <= {f["check"] for f in findings}
    assert list(tmp_path.iterdir()) == []  # looking makes no store


def test_a_broken_price_file_and_a_store_that_is_away_are_told_without_the_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prices.toml").write_text("this is no TOML")
    monkeypatch.setenv("TIDEGAUGE_PRICES_OVERRIDE_FILE", "prices.toml")
    monkeypatch.setenv("TIDEGAUGE_INFLUXDB_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TIDEGAUGE_INFLUXDB_TOKEN", "canary-token")
    monkeypatch.setenv("TIDEGAUGE_KAFKA_SASL_PASSWORD", "canary-password")
    assert main(["doctor", *NOBODY, "--store", "influxdb"]) == 1
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("FAIL prices: ")]
    assert [line for line in out.splitlines() if line.startswith("FAIL store: ") and "[influxdb]" in line]
    assert "canary" not in out + err


def test_a_wrong_flag_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--no-such-flag"]) == 2

"""``tidegauge query`` on an InfluxDB that does not let us: one clear line, and exit code 1."""

from __future__ import annotations

import pytest

from tests.support.servers import InfluxDB
from tidegauge.cli import main


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("token", "wrong", "the token is missing or wrong (setting influxdb.token)"),
        ("token", "", "the token is missing or wrong (setting influxdb.token)"),
        ("bucket", "another", "no such bucket or organisation"),
        ("org", "another", "no such bucket or organisation"),
        ("url", "http://127.0.0.1:1", "cannot be reached"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_never_the_token(
    influxdb: InfluxDB,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    value: str,
    told: str,
) -> None:
    right = {"url": influxdb.url, "org": influxdb.org, "bucket": influxdb.bucket, "token": influxdb.token}
    for name, text in (right | {setting: value}).items():
        monkeypatch.setenv(f"TIDEGAUGE_INFLUXDB_{name.upper()}", text)
    assert main(["query", "latency", "--store", "influxdb"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert told in printed.err
    assert influxdb.token not in printed.err


def test_right_settings_answer_with_nothing_where_there_is_nothing(
    influxdb: InfluxDB,
    influx_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = {"url": influxdb.url, "org": influxdb.org, "bucket": influx_bucket, "token": influxdb.token}
    for name, text in right.items():
        monkeypatch.setenv(f"TIDEGAUGE_INFLUXDB_{name.upper()}", text)
    assert main(["query", "latency", "--store", "influxdb", "--output", "json"]) == 0
    assert capsys.readouterr().out == "[]\n"

"""The deployment's files fit each other and the code, as far as that can be told without Docker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.dashboard import panel_queries
from tidegauge.cli import build_parser
from tidegauge.processors.core import figures
from tidegauge.processors.core.views import MEASUREMENTS
from tidegauge.settings import load
from tidegauge.sinks.query import dimensions as query_dimensions

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def _example_variables() -> dict[str, str]:
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_every_file_that_a_service_mounts_or_builds_from_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_services_wait_for_services_that_can_say_they_are_ready() -> None:
    for service in SERVICES.values():
        for name, needed in service.get("depends_on", {}).items():
            if needed["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]
            else:
                assert needed["condition"] == "service_completed_successfully"
                assert SERVICES[name]["restart"] == "on-failure"


def test_no_secret_has_a_value_in_git() -> None:
    assert set(_example_variables().values()) == {""}
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == set(_example_variables())
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if name.endswith(("PASSWORD", "TOKEN")):
                assert re.fullmatch(r"\$\{\w+:\?.+\}", value), name


def test_nothing_listens_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", ["worker", "topics"])
def test_a_services_settings_and_command_are_ones_that_tidegauge_knows(name: str) -> None:
    settings = load(environ=SERVICES[name]["environment"])
    assert settings.kafka.bootstrap_servers == "kafka:19092"
    assert settings.store.url == "influxdb"
    command = SERVICES[name]["command"]
    assert callable(build_parser(command[0]).parse_args(command).run)


@pytest.mark.parametrize(
    ("service", "script", "variable"),
    [("kafka", "kafka.sh", "kafka_version"), ("influxdb", "influxdb.sh", "influxdb_version")],
)
def test_docker_runs_the_versions_that_the_tests_run_against(
    service: str, script: str, variable: str
) -> None:
    found = re.search(rf"\b{variable}=v?(\S+)", (DEPLOY / "local" / script).read_text())
    assert found is not None
    assert SERVICES[service]["image"].rpartition(":")[2] == found[1]


def test_the_image_is_built_from_files_that_are_there_and_let_in() -> None:
    let_in = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = set()
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert copied == let_in
    for name in copied:
        assert (ROOT / name).exists()


def test_grafana_finds_its_data_source_and_its_dashboard_where_they_are_mounted() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "influxdb.yaml").read_text())["datasources"]
    used = {value[1:] for value in _strings(source) if value.startswith("$")}
    assert used < set(SERVICES["grafana"]["environment"])
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "tidegauge.yaml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DEPLOY / "grafana" / "dashboards" / Path(home).name).is_file()


@pytest.mark.parametrize(("title", "query"), panel_queries(), ids=lambda value: str(value)[:40])
def test_a_panel_asks_for_measurements_fields_and_tags_that_are_stored(title: str, query: str) -> None:
    measurements = re.findall(r'r\._measurement == "(\w+)"', query)
    assert len(measurements) == 1
    dimensions = set(query_dimensions(measurements[0]))
    fields = re.findall(r'r\._field == "(\w+)"', query)
    assert fields
    assert set(fields) <= _field_names(measurements[0])
    for group in re.findall(r"group\(columns: \[([^\]]*)\]", query):
        tags = set(re.findall(r'"(\w+)"', group)) - {"_field"}
        assert tags <= dimensions
    for tag in re.findall(r"exists r\.(\w+)", query):
        assert tag in dimensions


def _field_names(measurement: str) -> set[str]:
    if measurement == figures.MEASUREMENT:
        return set(figures.FIGURES)
    stored = MEASUREMENTS[measurement]
    aggregate = stored.view.empty()
    aggregate.counters = [1] * len(aggregate.counters)
    for sketch in aggregate.sketches:
        sketch.add(1)
    return set(stored.view.fields(stored.measurement, aggregate))


def _strings(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [text for inner in node.values() for text in _strings(inner)]
    return [node] if isinstance(node, str) else []

"""The supervisors' recipes fit the product: settings, ports, paths, times, and what systemd says of its units."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegauge.cli import build_parser
from tidegauge.errors import SettingsError, UnavailableError
from tidegauge.processors.app import STOP_WITHIN
from tidegauge.settings import load

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = DEPLOY / "systemd"
UNIT = (UNITS / "tidegauge-worker@.service").read_text()
HEALTH = (UNITS / "tidegauge-worker-health@.service").read_text()
MANIFESTS: dict[tuple[str, str], Any] = {
    (document["kind"], document.get("metadata", {}).get("name", file.stem)): document
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
}
POD = MANIFESTS["Deployment", "tidegauge-worker"]["spec"]["template"]["spec"]
(WORKER,) = POD["containers"]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["worker"]


def _settings(variables: dict[str, str], tmp_path: Path) -> Any:
    """Load them, with made-up secrets where files are named that a supervisor hands over."""
    secret = tmp_path / "secret"
    secret.write_text("canary\n")
    return load(
        environ={
            name: str(secret) if name.endswith(("TOKEN_FILE", "PASSWORD_FILE")) else value
            for name, value in variables.items()
        }
    )


def _unit_variables() -> dict[str, str]:
    lines = re.findall(r"^Environment=(\w+)=(.*)$", UNIT, re.MULTILINE)
    return {name: value.replace("%i", "3").replace("%H", "host.example.com") for name, value in lines}


def test_a_units_settings_are_settings_and_its_command_is_a_command(tmp_path: Path) -> None:
    settings = _settings(_unit_variables(), tmp_path)
    assert settings.worker.web_port == 8083
    assert settings.worker.web_host == "127.0.0.1"
    assert settings.worker.name == "host.example.com-3"
    assert settings.influxdb.token.reveal() == settings.kafka.sasl_password.reveal() == "canary"
    (command,) = re.findall(r"^ExecStart=\S+/tidegauge (.*)$", UNIT, re.MULTILINE)
    assert callable(build_parser("worker").parse_args(command.split()).run)
    for name in re.findall(r"^LoadCredential=(\w+):", UNIT, re.MULTILINE):
        assert f"%d/{name}\n" in UNIT


def test_a_unit_starts_a_worker_again_and_leaves_it_the_time_to_end() -> None:
    assert "\nRestart=on-failure\n" in UNIT
    assert "\nStartLimitIntervalSec=0\n" in UNIT
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert int(seconds) > STOP_WITHIN
    assert "http://127.0.0.1:808%i/health " in HEALTH
    assert "--max-time" in HEALTH
    assert "systemctl try-restart tidegauge-worker@%i.service" in HEALTH


def test_units_are_what_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        # Its parser is not there; that they are sections of keys can still be told.
        for file in UNITS.iterdir():
            unit = configparser.RawConfigParser(strict=False, interpolation=None)
            unit.read_string(file.read_text())
            assert unit.sections()
        return
    for file in UNITS.iterdir():
        text = file.read_text().replace("/opt/tidegauge/bin/tidegauge", "/bin/true")
        (tmp_path / file.name.replace("@.", "@1.")).write_text(text)
    files = [str(file) for file in tmp_path.iterdir()]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "tidegauge" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_manifests_are_all_there_and_name_each_other() -> None:
    files = set(MANIFESTS["Kustomization", "kustomization"]["resources"])
    assert files == {file.name for file in (DEPLOY / "kubernetes").iterdir()} - {"kustomization.yaml"}
    labels = MANIFESTS["Deployment", "tidegauge-worker"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        selector = MANIFESTS[kind, "tidegauge-worker"]["spec"]["selector"]["matchLabels"]
        assert selector.items() <= labels.items()
    policy = MANIFESTS["NetworkPolicy", "tidegauge-worker"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert MANIFESTS["PodDisruptionBudget", "tidegauge-worker"]["spec"]["maxUnavailable"] == 1
    for kind in ("Deployment", "Job"):
        for (found, _), document in MANIFESTS.items():
            if found == kind:
                pod = document["spec"]["template"]["spec"]
                (container,) = pod["containers"]
                for source in container["envFrom"]:
                    assert ("ConfigMap", source["configMapRef"]["name"]) in MANIFESTS
                for volume in pod["volumes"]:
                    assert "emptyDir" in volume or ("Secret", volume["secret"]["secretName"]) in MANIFESTS
                assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
                parsed = build_parser(container["args"][0]).parse_args(container["args"])
                assert callable(parsed.run)
                assert pod["securityContext"]["runAsNonRoot"]
                assert container["securityContext"]["readOnlyRootFilesystem"]


def test_a_pods_settings_are_settings_and_its_secrets_are_files_of_the_secret(tmp_path: Path) -> None:
    variables = dict(MANIFESTS["ConfigMap", "tidegauge"]["data"])
    (mount,) = [m["mountPath"] for m in WORKER["volumeMounts"] if m["name"] == "secrets"]
    files = {value for value in variables.values() if value.startswith("/run/secrets")}
    assert files == {f"{mount}/{name}" for name in MANIFESTS["Secret", "tidegauge"]["stringData"]}
    assert not any(MANIFESTS["Secret", "tidegauge"]["stringData"].values())
    settings = _settings(variables | {entry["name"]: entry["value"] for entry in WORKER["env"]}, tmp_path)
    (port,) = WORKER["ports"]
    assert settings.worker.web_port == port["containerPort"]
    assert settings.worker.web_host == "0.0.0.0"  # noqa: S104 — the kubelet comes to the pod's address
    policy = MANIFESTS["NetworkPolicy", "tidegauge-worker"]["spec"]["ingress"][0]["ports"]
    assert [entry["port"] for entry in policy] == [settings.worker.web_port]


def test_probes_ask_the_products_paths_and_a_pod_has_the_time_to_end() -> None:
    paths = {
        name: WORKER[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {"startupProbe": "/health", "livenessProbe": "/health", "readinessProbe": "/ready"}
    for name in paths:
        assert WORKER[name]["httpGet"]["port"] == WORKER["ports"][0]["name"]
        assert WORKER[name]["timeoutSeconds"] >= 2
    assert POD["terminationGracePeriodSeconds"] > STOP_WITHIN
    source = (DEPLOY.parent / "processors" / "engine" / "web.py").read_text()
    for path in ("/health", "/ready", "/metrics"):
        assert f'app.router.add_get("{path}"' in source
    annotations = MANIFESTS["Deployment", "tidegauge-worker"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == "/metrics"
    assert annotations["prometheus.io/port"] == str(WORKER["ports"][0]["containerPort"])


def test_compose_starts_a_worker_again_and_asks_it_where_it_answers() -> None:
    assert COMPOSE["restart"] == "unless-stopped"
    assert int(COMPOSE["stop_grace_period"].removesuffix("s")) > STOP_WITHIN
    port = COMPOSE["environment"]["TIDEGAUGE_WORKER_WEB_PORT"]
    assert f"http://127.0.0.1:{port}/ready" in COMPOSE["healthcheck"]["test"][-1]


def test_a_secret_comes_from_the_file_that_is_named_for_it_and_errors_do_not_show_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a canary \n")
    settings = load(environ={"TIDEGAUGE_INFLUXDB_TOKEN_FILE": str(file)})
    assert settings.influxdb.token.reveal() == "a canary "
    both = {"TIDEGAUGE_INFLUXDB_TOKEN_FILE": str(file), "TIDEGAUGE_INFLUXDB_TOKEN": "another canary"}
    with pytest.raises(SettingsError, match="expected either this or TIDEGAUGE_INFLUXDB_TOKEN") as refused:
        load(environ=both)
    assert "canary" not in str(refused.value)
    with pytest.raises(UnavailableError, match=r"TIDEGAUGE_INFLUXDB_TOKEN_FILE: .*No such file"):
        load(environ={"TIDEGAUGE_INFLUXDB_TOKEN_FILE": str(tmp_path / "nothing")})
    with pytest.raises(SettingsError):
        load(environ={"TIDEGAUGE_INFLUXDB_URL_FILE": str(file)})
    prices = load(environ={"TIDEGAUGE_PRICES_OVERRIDE_FILE": "prices.toml"})
    assert prices.prices.override_file == "prices.toml"

"""The doctor on a real Kafka: healthy, and with topics that are not as they must be."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.deployment import Pipeline
from tests.support.servers import Kafka


def test_the_doctor_finds_nothing_where_all_is_well_and_names_what_is_not(
    tmp_path: Path, kafka: Kafka, topic_prefix: str
) -> None:
    pipeline = Pipeline(tmp_path, kafka.bootstrap_servers, topic_prefix)
    missing = pipeline.run("doctor", "--store", pipeline.store)
    assert missing.returncode == 1
    assert "run: tidegauge topics create" in missing.stdout

    pipeline.create_topics()
    well = json.loads(pipeline.do("doctor", "--store", pipeline.store, "--output", "json"))
    assert {f["check"]: f["state"] for f in well if f["check"] != "store"}.items() >= {
        ("broker", "OK"),
        ("topics", "OK"),
    }

    permissions = [f for f in well if f["check"] == "permissions"]
    assert [f["found"] for f in permissions] == ["7 topics may be read and written"]

    wrong = Pipeline(tmp_path, kafka.bootstrap_servers, topic_prefix, partitions=5).run(
        "doctor", "--store", pipeline.store
    )
    assert wrong.returncode == 1
    assert "FAIL topics" in wrong.stdout
    assert "has 3 partitions, the settings ask for 5" in wrong.stdout

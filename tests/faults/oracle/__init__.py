"""An oracle for the pipeline: knows what must be stored without any of the pipeline's code.

    events = Generator(seed).take(10_000)           # every cost is known before it is sent
    with Publisher(servers, topic, partitions, ledger) as publisher:
        publisher.send(events)                      # noted in the ledger before, acknowledged after
    verdict = verify(read_topic(servers, topic), ledger, stored_sqlite(path, topic))
    assert verdict.ok, verdict

The standard library and kafka-python are all it uses (``test_oracle.py`` holds it to that).
"""

from .events import MODELS, PRICES_TOML, Event, Generator
from .ledger import Ledger
from .publisher import Publisher
from .stored import VIEWS, Stored, stored_influxdb, stored_sqlite
from .topic import Sums, Topic, read_records, read_topic
from .verdict import Verdict, verify

__all__ = [
    "MODELS",
    "PRICES_TOML",
    "VIEWS",
    "Event",
    "Generator",
    "Ledger",
    "Publisher",
    "Stored",
    "Sums",
    "Topic",
    "Verdict",
    "read_records",
    "read_topic",
    "stored_influxdb",
    "stored_sqlite",
    "verify",
]

"""Random faults under load, and the oracle's verdict at the end.

    python -m tests.faults.chaos --minutes 5 --seed 1 [--influxdb]

Workers are killed, ended, frozen and started; Kafka is killed, restarted and frozen; with ``--influxdb`` the store is
as well. What is done and when is printed. Exit code 0: exact. Everything that was started is ended.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.faults.matrix import Note
from tests.faults.scene import Scene
from tests.support.deployment import Worker
from tests.support.servers import InfluxDB, Kafka, Server

MOST_WORKERS = 3


class Chaos:
    """Injects faults into a scene.

    Args:
        scene: under load.
        seed: the same gives the same faults.
        stack: ends the workers.
        influxdb: the store, where it can fail, too.
    """

    def __init__(self, scene: Scene, seed: int, stack: ExitStack, influxdb: InfluxDB | None) -> None:
        self._scene = scene
        self._random = random.Random(seed)
        self._stack = stack
        self._influxdb = influxdb
        self._began = time.monotonic()
        self._number = 0
        self.workers: list[Worker] = []
        self.faults: dict[str, int] = {}

    def start_worker(self) -> None:
        """One more worker."""
        self._number += 1
        self.workers.append(self._stack.enter_context(self._scene.pipeline.worker(f"worker-{self._number}")))

    def once(self) -> None:
        """One fault of the list."""
        self._supervise()
        faults = [
            self._kill_worker,
            self._end_worker,
            self._freeze_worker,
            self._kill_kafka,
            self._restart_kafka,
        ]
        faults += [self._freeze_kafka, self._add_worker, self._kill_worker]
        if self._influxdb is not None:
            faults += [self._kill_influxdb, self._freeze_influxdb]
        self._random.choice(faults)()

    def calm(self) -> Worker:
        """Leave one worker, all servers running."""
        self._supervise()
        for worker in self.workers[1:]:
            worker.process.kill()
        return self.workers[0]

    def _supervise(self) -> None:
        # As systemd and the like do: what ended by itself is started again. It must have said why.
        for worker in [worker for worker in self.workers if worker.process.poll() is not None]:
            self._say(f"a worker had ended with {worker.process.returncode}: {worker.tail().strip()[-400:]}")
            self.workers.remove(worker)
        if not self.workers:
            self.start_worker()

    def _say(self, what: str) -> None:
        self.faults[what.split(":")[0]] = self.faults.get(what.split(":")[0], 0) + 1
        sys.stdout.write(f"{time.monotonic() - self._began:7.1f} s  {what}\n")
        sys.stdout.flush()

    def _one(self) -> Worker:
        return self._random.choice(self.workers)

    def _kill_worker(self) -> None:
        self._say("kill -9 of a worker")
        worker = self._one()
        worker.kill()
        self.workers.remove(worker)
        self.start_worker()

    def _end_worker(self) -> None:
        self._say("SIGTERM to a worker")
        worker = self._one()
        worker.process.send_signal(signal.SIGTERM)
        code = worker.process.wait(40)
        if code not in (0, -signal.SIGTERM):  # the latter where it had hardly begun
            self._say(f"it ended with {code}: {worker.tail().strip()[-400:]}")
        self.workers.remove(worker)
        self.start_worker()

    def _add_worker(self) -> None:
        if len(self.workers) < MOST_WORKERS:
            self._say("one more worker")
            self.start_worker()

    def _freeze_worker(self) -> None:
        seconds = self._random.choice([2, 8, 14])
        self._say(f"SIGSTOP of a worker: {seconds} s")
        worker = self._one()
        os.kill(worker.process.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(worker.process.pid, signal.SIGCONT)

    def _kill_kafka(self) -> None:
        self._crash("Kafka", self._scene.kafka)

    def _kill_influxdb(self) -> None:
        assert self._influxdb is not None
        self._crash("InfluxDB", self._influxdb)

    def _crash(self, name: str, server: Server) -> None:
        seconds = self._random.choice([0, 2, 10])
        self._say(f"kill -9 of {name}: {seconds} s")
        server.kill()
        time.sleep(seconds)
        server.start()

    def _restart_kafka(self) -> None:
        self._say("Kafka restarted")
        self._scene.kafka.stop()
        self._scene.kafka.start()

    def _freeze_kafka(self) -> None:
        self._freeze("Kafka", self._scene.kafka)

    def _freeze_influxdb(self) -> None:
        assert self._influxdb is not None
        self._freeze("InfluxDB", self._influxdb)

    def _freeze(self, name: str, server: Server) -> None:
        seconds = self._random.choice([1, 4, 9])
        self._say(f"SIGSTOP of {name}: {seconds} s")
        with server.paused():
            time.sleep(seconds)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=int, default=200, help="events per second")
    parser.add_argument("--influxdb", action="store_true", help="store in InfluxDB, and let it fail, too")
    args = parser.parse_args()
    with ExitStack() as servers, tempfile.TemporaryDirectory() as folder:
        kafka = Kafka()
        servers.callback(kafka.close)
        kafka.start()
        influxdb = None
        if args.influxdb:
            influxdb = InfluxDB()
            servers.callback(influxdb.close)
            influxdb.start()
        store = (influxdb, influxdb.bucket) if influxdb else None
        scene = Scene(kafka, "chaos.", Path(folder), Note(), influxdb=store, seed=args.seed)
        with ExitStack() as stack:
            chaos = Chaos(scene, args.seed, stack, influxdb)
            chance = random.Random(args.seed)
            chaos.start_worker()
            end = time.monotonic() + 60 * args.minutes
            with scene.load(args.rate):
                while time.monotonic() < end:
                    time.sleep(chance.uniform(1, 12))
                    chaos.once()
            worker = chaos.calm()
            verdict = scene.settle()
            sys.stdout.write(f"{sum(chaos.faults.values())} faults, seed {args.seed}: {verdict}\n")
            if not verdict.ok:
                sys.stdout.write(worker.tail() + "\n")
        scene.ledger.__exit__(None, None, None)
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())

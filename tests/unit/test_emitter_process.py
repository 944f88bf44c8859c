"""The ends and the forks of processes: each scenario is a program of its own."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.support.servers import free_port

PREAMBLE = """
import multiprocessing, os, sys, threading, time
import msgspec
from tests.support.fake_producer import FakeKafka
from tidegauge.producers import Client, Emitter, new_event_id
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import load

OUT = sys.argv[1]


class FileKafka(FakeKafka):
    def send(self, topic, value, *, partition):
        decoded = msgspec.json.decode(value)
        with open(OUT, "a") as out:
            for event in decoded if isinstance(decoded, list) else [decoded]:
                out.write(f"{os.getpid()} {event['id']}\\n")
        return super().send(topic, value, partition=partition)


def make(**options):
    settings = load(environ={}, overrides={f"emitter.{k}": v for k, v in options.items()})
    return Emitter(settings, producer_factory=lambda *_: FileKafka())


def event(name):
    return RequestEvent(name, time.time())
"""


UNCONFIGURED = """
import tidegauge.producers as t
with t.call(provider="p", model="m") as call:
    call.set_usage(input_tokens=1)
print(dict(t.default_client().emitter.refused.counts()))
"""


def run(tmp_path: Path, program: str, code: int = 0) -> tuple[list[tuple[int, str]], str]:
    """What was sent, as (pid, event id), and what was printed; the program must end with ``code``."""
    out = tmp_path / "sent"
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-c", PREAMBLE + textwrap.dedent(program), str(out)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == code, result.stderr
    assert ("Traceback" in result.stderr) == (code != 0), result.stderr
    lines = out.read_text().splitlines() if out.exists() else []
    return [(int(pid), name) for pid, name in map(str.split, lines)], result.stdout + result.stderr


def names(sent: list[tuple[int, str]]) -> list[str]:
    return sorted(name for _, name in sent)


def test_a_program_that_just_ends_has_sent_its_events(tmp_path: Path) -> None:
    sent, _ = run(
        tmp_path,
        """
        emitter = make(linger=30)
        for n in range(5):
            emitter.emit(event(f"e{n}"))
        """,
    )
    assert names(sent) == ["e0", "e1", "e2", "e3", "e4"]


def test_a_program_that_ends_by_an_error_has_sent_its_events(tmp_path: Path) -> None:
    sent, _ = run(
        tmp_path,
        """
        emitter = make(linger=30)
        emitter.emit(event("last-words"))
        raise RuntimeError
        """,
        code=1,
    )
    assert names(sent) == ["last-words"]


def test_threads_that_outlive_the_main_one_are_still_heard(tmp_path: Path) -> None:
    sent, _ = run(
        tmp_path,
        """
        emitter = make(linger=0.01)
        emitter.emit(event("early"))
        def late():
            threading.main_thread().join()
            time.sleep(0.2)
            emitter.emit(event("late"))
        threading.Thread(target=late).start()
        """,
    )
    assert names(sent) == ["early", "late"]


def test_a_forked_child_sends_its_own_events_and_never_its_parents(tmp_path: Path) -> None:
    sent, printed = run(
        tmp_path,
        """
        emitter = make(linger=30)
        emitter.emit(event("started"))
        assert emitter.flush()
        for n in range(20):
            emitter.emit(event(f"parent{n}"))
        pid = os.fork()
        if pid == 0:
            assert emitter.stats().accepted == 0
            for n in range(20):
                emitter.emit(event(f"child{n}"))
            assert emitter.flush()
            assert emitter.stats().delivered == 20
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print("parent", os.getpid(), "child", pid)
        assert emitter.close()
        """,
    )
    expected = ["started"] + [f"{who}{n}" for who in ("parent", "child") for n in range(20)]
    assert names(sent) == sorted(expected)
    words = printed.split()
    parent, child = int(words[1]), int(words[3])
    assert {pid for pid, name in sent if name.startswith("child")} == {child}
    assert {pid for pid, name in sent if not name.startswith("child")} == {parent}


def test_preforked_workers_each_send_at_their_exit(tmp_path: Path) -> None:
    sent, _ = run(
        tmp_path,
        """
        emitter = make(linger=30)
        emitter.emit(event("master"))  # as an application does that is loaded before its workers are forked
        children = []
        for worker in range(3):
            pid = os.fork()
            if pid == 0:
                for n in range(10):
                    emitter.emit(event(f"w{worker}-{n}"))
                sys.exit(0)
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        """,
    )
    assert names(sent) == sorted(["master"] + [f"w{w}-{n}" for w in range(3) for n in range(10)])


def test_children_of_multiprocessing_send_although_they_skip_atexit(tmp_path: Path) -> None:
    sent, _ = run(
        tmp_path,
        """
        emitter = make(linger=30)
        def work(n):
            emitter.emit(event(f"child{n}"))
        emitter.emit(event("parent"))
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=work, args=(n,)) for n in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        """,
    )
    assert names(sent) == ["child0", "child1", "parent"]


def test_a_fork_while_threads_emit_loses_and_doubles_nothing(tmp_path: Path) -> None:
    sent, _ = run(
        tmp_path,
        """
        emitter = make(linger=0.001)
        stop = threading.Event()
        def busy():
            n = 0
            while not stop.is_set():
                emitter.emit(event(f"parent{n}"))
                n += 1
                time.sleep(0.0005)
        thread = threading.Thread(target=busy)
        thread.start()
        children = []
        for c in range(8):
            pid = os.fork()
            if pid == 0:
                emitter.emit(event(f"child{c}"))
                os._exit(0 if emitter.flush(10) else 3)
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        thread.join()
        assert emitter.close()
        assert emitter.stats().accepted == emitter.stats().delivered
        print(emitter.stats().accepted)
        """,
    )
    ids = names(sent)
    assert len(ids) == len(set(ids))
    assert [i for i in ids if i.startswith("child")] == [f"child{c}" for c in range(8)]


def test_ids_differ_between_a_child_and_its_parent(tmp_path: Path) -> None:
    _, printed = run(
        tmp_path,
        """
        if os.fork() == 0:
            print(*(new_event_id()[14:] for _ in range(100)), flush=True)
            os._exit(0)
        os.wait()
        print(*(new_event_id()[14:] for _ in range(100)), flush=True)
        """,
    )
    ids = printed.split()
    assert len(ids) == len(set(ids)) == 200


def dead_broker_program(body: str) -> str:
    return f"""
        settings = load(environ={{}}, overrides={{
            "kafka.bootstrap_servers": "127.0.0.1:{free_port()}",
            "emitter.close_timeout": 1.0, "emitter.queue_size": 1000,
        }})
        client = Client(settings)
        """ + textwrap.indent(textwrap.dedent(body), " " * 8)


def test_with_a_dead_broker_a_program_ends_within_the_deadline_and_says_what_was_lost(
    tmp_path: Path,
) -> None:
    began = time.monotonic()
    _, printed = run(
        tmp_path,
        dead_broker_program(
            """
            with client.call(provider="p", model="private-model"):
                pass
            """
        ),
    )
    assert time.monotonic() - began < 10
    assert "1 events not acknowledged" in printed
    assert "private-model" not in printed


def test_with_a_dead_broker_a_call_costs_no_more_and_the_drops_are_counted(tmp_path: Path) -> None:
    _, printed = run(
        tmp_path,
        dead_broker_program(
            """
            costs = []
            for _ in range(5000):
                began = time.perf_counter()
                with client.call(provider="p", model="m") as call:
                    call.set_usage(input_tokens=1, output_tokens=1)
                costs.append(time.perf_counter() - began)
            stats = client.emitter.stats()
            assert stats.dropped == {"queue_full": 4000}, stats
            assert stats.accepted == stats.in_queue == 1000, stats
            print("costs", *costs)
            """
        ),
    )
    costs = [float(word) for word in printed.partition("costs ")[2].splitlines()[0].split()]
    assert statistics.median(costs) < 50e-6


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_tries_to_reach_a_dead_broker_leave_no_file_open(tmp_path: Path) -> None:
    run(
        tmp_path,
        dead_broker_program(
            """
            import gc
            from kafka.errors import KafkaError
            from tidegauge.producers.kafka_client import make_producer
            gc.disable()  # as some servers do
            before = len(os.listdir("/proc/self/fd"))
            try:
                make_producer(settings, 10.0)
            except KafkaError:
                pass
            else:
                raise AssertionError("nobody should have answered")
            assert len(os.listdir("/proc/self/fd")) == before
            """
        ),
    )


def test_importing_the_sdk_does_not_import_kafka(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import sys, tidegauge.producers; print('kafka' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
    )
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("setting", ["TIDEGAUGE_EMITTER_QUEUE_SIZE=none", "TIDEGAUGE_KAFKA_WHAT=1"])
def test_wrong_settings_do_not_break_an_application_that_never_configured(
    tmp_path: Path, setting: str
) -> None:
    name, _, value = setting.partition("=")
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            UNCONFIGURED,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], name: value},
    )
    assert result.stdout.strip() == "{'misconfigured': 1}"
    assert "nothing is recorded" in result.stderr

"""Models without a price, and prices that change at midnight: tokens exact, and each cost that of its event's day."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.oracle import PRICES_TOML
from tests.faults.oracle.events import MIDNIGHT, make
from tests.faults.scene import Scene

pytestmark = pytest.mark.slow

DAY = MIDNIGHT // 86_400


def prices(scene: Scene, *entries: str) -> None:
    """Give the workers that start from now on more prices."""
    path: Path = scene.pipeline.directory / "prices.toml"
    path.write_text("\n".join([PRICES_TOML, *entries]))


@pytest.mark.fault(29, "a model of unknown price: unpriced, and priced by rebuild once its price is known")
def test_an_unknown_model_is_unpriced_until_a_rebuild_prices_it(scene: Scene) -> None:
    known = [make(f"known-{n}", MIDNIGHT + n, "small", n + 1, 2) for n in range(300)]
    unknown = [make(f"unknown-{n}", MIDNIGHT + n, "novel", 2 * n + 1, n) for n in range(300)]
    with scene.publisher() as publisher:
        publisher.send([*known, *unknown])
    with scene.pipeline.worker("first") as worker:
        # To the oracle the model costs nothing, and an unpriced request adds nothing to a cost.
        verdict = scene.settle(lambda: worker.process.poll() is None)
        assert verdict.ok, verdict
        worker.end()
    assert unpriced(scene) == {"small": 0, "novel": 300}
    prices(scene, '[[price]]\nprovider = "oracle"\nmodel = "novel"\ninput = "0.011"\noutput = "0.017"\n')
    with scene.pipeline.worker("second") as worker:
        scene.pipeline.do(
            "rebuild",
            "--store",
            scene.pipeline.store,
            "--from",
            str(MIDNIGHT - 86_400),
            "--to",
            str(MIDNIGHT + 86_400),
        )
        worker.end()
    for view, sums in scene.stored().sums.items():
        novel, small = sums["novel", DAY], sums["small", DAY]
        assert (novel.requests, novel.input_tokens) == (300, sum(e.input_tokens for e in unknown)), view
        assert novel.cost_nano == sum(11 * e.input_tokens + 17 * e.output_tokens for e in unknown), view
        assert small.cost_nano == sum(e.cost_nano for e in known), view
    assert unpriced(scene) == {"small": 0, "novel": 0}
    scene.note.events, scene.note.difference = 600, 0


def unpriced(scene: Scene) -> dict[str, int]:
    """Requests without a price, by model."""
    return {
        str(row["model"]): int(row["unpriced_requests"] or 0)
        for row in scene.pipeline.rows("cost", by=["model"])
    }


@pytest.mark.fault(30, "a price that changes at midnight, events shuffled around it")
def test_a_price_that_changes_at_midnight_holds_from_the_first_event_of_the_day(scene: Scene) -> None:
    prices(
        scene,
        '[[price]]\nprovider = "oracle"\nmodel = "dated"\nto = 2023-11-15\ninput = "1"\noutput = "2"\n',
        '[[price]]\nprovider = "oracle"\nmodel = "dated"\nfrom = 2023-11-15\ninput = "3"\noutput = "5"\n',
    )
    moments = [MIDNIGHT + n / 10 for n in range(-300, 300)] + [MIDNIGHT - 0.001, MIDNIGHT + 0.001]
    events = [make(f"e{n}", moment, "dated", n + 1, 3) for n, moment in enumerate(moments)]
    random.Random(30).shuffle(events)
    with scene.publisher() as publisher:
        publisher.send(events)
    with scene.pipeline.worker() as worker:
        worker.wait("every event", lambda: scene.handled() >= len(events))
        worker.end()
    for view, sums in scene.stored().sums.items():
        assert set(sums) == {("dated", DAY - 1), ("dated", DAY)}, view
        for day, rates in ((DAY - 1, (1_000, 2_000)), (DAY, (3_000, 5_000))):
            of_day = [event for event in events if event.day == day]
            expected = sum(e.input_tokens * rates[0] + e.output_tokens * rates[1] for e in of_day)
            assert (sums["dated", day].requests, sums["dated", day].cost_nano) == (301, expected), view
    scene.note.events, scene.note.difference = len(events), 0

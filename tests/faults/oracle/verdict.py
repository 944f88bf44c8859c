"""Compares what is stored with what the topic and the ledger say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .ledger import Ledger
from .stored import Stored
from .topic import Sums, Topic

_READ = frozenset({"applied", "duplicate", "late"})
"""All other outcomes are those of dead letters."""


@dataclass
class Verdict:
    """Whether all is as it must be; each difference is a sentence."""

    events: int = 0
    difference_nano: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def __str__(self) -> str:
        if self.ok:
            return f"{self.events} events, difference 0"
        more = len(self.differences) - 20
        shown = "\n".join(f"- {text}" for text in self.differences[:20])
        return f"{self.events} events, {len(self.differences)} differences:\n{shown}" + (
            f"\n- and {more} more" if more > 0 else ""
        )


def verify(topic: Topic, ledger: Ledger | None, stored: Stored) -> Verdict:
    """Compare.

    Args:
        topic: as read again from its beginning.
        ledger: what was sent; ``None`` where nobody kept one.
        stored: as read from the store.
    """
    verdict = Verdict(topic.events)
    late = len(topic.late & topic.ids.keys())
    tell = verdict.differences.append
    for view, sums in stored.sums.items():
        for key in sorted(sums.keys() | topic.sums.keys()):
            expected, found = topic.sums.get(key, Sums()), sums.get(key, Sums())
            if expected != found:
                model, day = key
                tell(f"{view} of {model} on day {day}: stored {found}, must be {expected}")
                verdict.difference_nano += abs(expected.cost_nano - found.cost_nano)
    outcomes = stored.outcomes
    counted = sum(outcomes.values())
    if counted != topic.events:
        tell(f"{counted} events are accounted for ({dict(outcomes)}) of {topic.events} on the topic")
    applied = sum(sums.requests for sums in topic.sums.values())
    repeats = sum(copies - 1 for copies in topic.ids.values())
    for outcome, expected_count in (("applied", applied), ("duplicate", repeats), ("late", late)):
        if outcomes.get(outcome, 0) != expected_count:
            tell(f"{outcomes.get(outcome, 0)} events are counted as {outcome}, must be {expected_count}")
    dead = sum(count for outcome, count in outcomes.items() if outcome not in _READ)
    if dead != topic.events - applied - repeats - late:
        tell(f"{dead} events are counted as refused, must be {topic.events - applied - repeats - late}")
    if ledger is not None:
        _compare_ledger(topic, ledger, tell)
    return verdict


def _compare_ledger(topic: Topic, ledger: Ledger, tell: Callable[[str], None]) -> None:
    for identity in sorted(ledger.acknowledged - topic.ids.keys())[:20]:
        tell(f"{identity} was acknowledged and is not on the topic")
    for identity in sorted(set(topic.ids) - ledger.sent.keys())[:20]:
        tell(f"{identity} is on the topic and was never sent")
    sums: dict[tuple[str, int], Sums] = {}
    for identity, (model, day, cost, tokens_in, tokens_out) in ledger.sent.items():
        if identity in topic.ids and identity not in topic.late:
            entry = sums.setdefault((model, day), Sums())
            entry.requests += 1
            entry.cost_nano += cost
            entry.input_tokens += tokens_in
            entry.output_tokens += tokens_out
    for key in sorted(sums.keys() | topic.sums.keys()):
        if sums.get(key) != topic.sums.get(key):
            model, day = key
            tell(f"{model} on day {day}: sent {sums.get(key)}, and on the topic is {topic.sums.get(key)}")

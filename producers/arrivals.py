"""When simulated requests arrive: a Poisson process whose rate follows the day, drifts, and bursts.

The logarithm of the rate carries an autoregressive process of first order in steps of ``SLOT`` seconds, with the
standard deviation and memory of the profile; a burst multiplies the rate for its length. All factors have mean 1
over a long time, so that the mean rate is the one asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Final

from .profile import Profile

SLOT: Final = 10.0
_DAY: Final = 86_400.0


def arrivals(random: Random, profile: Profile, rate: float, start: float) -> Iterator[float]:
    """Yield the Unix times of requests from ``start`` on, without end, ``rate`` a second on average."""
    sigma, memory = profile.drift
    keep = math.exp(-SLOT / memory)
    noise = math.sqrt(1 - keep * keep)
    per_hour, factor, length = profile.bursts
    burst_share = per_hour * length / 3600
    calm = 1 / (1 + burst_share * (factor - 1))
    drift = random.gauss(0, 1)
    burst_at = start + random.expovariate(per_hour / 3600) if per_hour else math.inf
    slot = start
    for number in range(1, 1 << 62):
        now = slot
        end = start + number * SLOT
        daily = 1 + profile.daily * math.cos((slot - profile.peak) % _DAY / _DAY * math.tau)
        bursting = burst_at < end and slot < burst_at + length
        current = (
            rate * daily * math.exp(sigma * drift - sigma * sigma / 2) * calm * (factor if bursting else 1.0)
        )
        while (now := now + random.expovariate(1.0) / current) < end:
            yield now
        slot = end
        drift = keep * drift + noise * random.gauss(0, 1)
        if slot >= burst_at + length:
            burst_at = slot + random.expovariate(per_hour / 3600)

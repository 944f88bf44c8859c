"""What one model's tokens cost, in integers alone.

A rate of ``p`` USD per million tokens is ``1000 · p`` nano-dollars per token. All rates of a model are
brought to one common denominator, so that an event's cost is a sum of integer products and one exact division. Nearly
all published rates have at most three decimals; their denominator is 1, and nothing is rounded at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from math import lcm
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

_NO_TIER: Final = 1 << 62
_MOST: Final = 1 << 62  # what may be computed in 64 bits
_NANO_PER_TOKEN: Final = 1_000  # of 1 USD per million tokens
_NANO_PER_REQUEST: Final = 1_000_000  # of 1 USD per thousand requests


class Cost(NamedTuple):
    """The cost of one event in integer nano-dollars; the four parts sum to ``total`` exactly.

    ``input`` is the uncached input with any fee per request, and takes what rounding moved (at most 3
    nano-dollars). ``output`` includes reasoning; ``cache_creation`` includes one-hour writes.
    """

    total: int
    input: int
    output: int
    cache_read: int
    cache_creation: int


class Rates(NamedTuple):
    """USD per million tokens. ``None``: billed as the more general kind, as genai-prices does.

    ``request`` is a fee in USD per thousand requests.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_creation: Decimal | None = None
    cache_creation_1h: Decimal | None = None
    reasoning: Decimal | None = None
    request: Decimal = Decimal(0)


class UnitPrice:
    """The rates of a model at a moment.

    Args:
        rates: what holds up to the first tier.
        tiers: (start, rates), ascending: a request with more than ``start`` input tokens is billed by these
            rates as a whole, not only beyond the start.
        inferred: the provider was not told but found by the model's name; the cost counts as estimated.
    """

    __slots__ = ("_flat", "_higher", "_threshold", "_weights", "inferred")

    def __init__(
        self, rates: Rates, tiers: Sequence[tuple[int, Rates]] = (), *, inferred: bool = False
    ) -> None:
        self.inferred: Final = inferred
        self._weights = _weights(rates)
        self._threshold = _NO_TIER
        self._flat = self._higher = self
        if tiers:
            self._flat = UnitPrice(rates, inferred=inferred)
            (self._threshold, higher), *rest = tiers
            self._higher = UnitPrice(higher, rest, inferred=inferred)

    def cost(
        self,
        input_tokens: int,
        output_tokens: int,
        cache_read: int = 0,
        cache_creation: int = 0,
        cache_creation_1h: int = 0,
        reasoning: int = 0,
    ) -> Cost:
        """The cost of one request. Tokens follow OpenTelemetry.

        Args:
            input_tokens: all input tokens, cache reads and writes included.
            output_tokens: all output tokens, reasoning included.
            cache_read: input tokens read from a cache.
            cache_creation: input tokens written to a cache.
            cache_creation_1h: of those, the ones with a lifetime of one hour.
            reasoning: output tokens spent on reasoning; matters for the few models that bill them apart.

        Counts that contradict each other are bounded and never make a part negative: uncached input is at
        least 0, one-hour writes are at most all writes, reasoning is at most all output. The total is rounded
        once, half to even.
        """
        if input_tokens > self._threshold:
            return self._higher.cost(
                input_tokens, output_tokens, cache_read, cache_creation, cache_creation_1h, reasoning
            )
        divisor, per_input, per_output, per_read, per_creation, extra_1h, extra_reasoning, fee = self._weights
        output = per_output * output_tokens
        if extra_reasoning and reasoning:
            output += extra_reasoning * (reasoning if reasoning < output_tokens else output_tokens)
        if cache_read or cache_creation:
            read = per_read * cache_read
            creation = per_creation * cache_creation
            if cache_creation_1h:
                creation += extra_1h * min(cache_creation_1h, cache_creation)
            uncached = input_tokens - cache_read - cache_creation
            own = per_input * uncached + fee if uncached > 0 else fee
            total = own + output + read + creation
        else:
            read = creation = 0
            own = per_input * input_tokens + fee
            total = own + output
        if divisor == 1:
            return Cost(total, own, output, read, creation)
        # Parts are rounded down: their sum then never exceeds the rounded total, and the rest is never < 0.
        output //= divisor
        read //= divisor
        creation //= divisor
        rounded, remainder = divmod(total, divisor)
        if 2 * remainder > divisor or (2 * remainder == divisor and rounded & 1):
            rounded += 1
        return Cost(rounded, rounded - output - read - creation, output, read, creation)

    def costs(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """The costs of many requests: ``cost`` for each row, to the same nano-dollar.

        Args:
            tokens: (requests, 6), the columns in the order of ``cost``'s arguments.

        Returns:
            (requests, 5), the columns in the order of ``Cost``; ``None`` where 64 bits might not hold what is to be
            computed: ask ``cost`` then.
        """
        above = tokens[:, 0] > self._threshold
        if above.any():
            result = np.empty((len(tokens), 5), dtype=np.int64)
            for rows, unit in ((~above, self._flat), (above, self._higher)):
                part = unit.costs(tokens[rows])
                if part is None:
                    return None
                result[rows] = part
            return result
        divisor, per_input, per_output, per_read, per_creation, extra_1h, extra_reasoning, fee = self._weights
        if not len(tokens):
            return np.empty((0, 5), dtype=np.int64)
        largest = int(tokens.sum(axis=1).max()) * max(map(abs, self._weights)) + fee
        if 2 * largest + divisor >= _MOST:
            return None
        inputs, outputs, read, creation, creation_1h, reasoning = tokens.T
        uncached = np.maximum(inputs - read - creation, 0)
        result = np.stack(
            (
                outputs,  # the place of the total
                per_input * uncached + fee,
                per_output * outputs + extra_reasoning * np.minimum(reasoning, outputs),
                per_read * read,
                per_creation * creation + extra_1h * np.minimum(creation_1h, creation),
            ),
            axis=1,
        )
        total = result[:, 1:].sum(axis=1)
        if divisor != 1:
            result[:, 2:] //= divisor
            total, remainder = np.divmod(total, divisor)
            total += (2 * remainder > divisor) | ((2 * remainder == divisor) & (total & 1 == 1))
            result[:, 1] = total - result[:, 2:].sum(axis=1)
        result[:, 0] = total
        return result


def _weights(rates: Rates) -> tuple[int, int, int, int, int, int, int, int]:
    own = Fraction(rates.input) * _NANO_PER_TOKEN
    output = Fraction(rates.output) * _NANO_PER_TOKEN
    read = own if rates.cache_read is None else Fraction(rates.cache_read) * _NANO_PER_TOKEN
    creation = own if rates.cache_creation is None else Fraction(rates.cache_creation) * _NANO_PER_TOKEN
    hour = (
        creation if rates.cache_creation_1h is None else Fraction(rates.cache_creation_1h) * _NANO_PER_TOKEN
    )
    reasoning = output if rates.reasoning is None else Fraction(rates.reasoning) * _NANO_PER_TOKEN
    fee = Fraction(rates.request) * _NANO_PER_REQUEST
    exact = (own, output, read, creation, hour - creation, reasoning - output, fee)
    divisor = lcm(*(weight.denominator for weight in exact))
    one, two, three, four, five, six, seven = (int(weight * divisor) for weight in exact)
    return divisor, one, two, three, four, five, six, seven

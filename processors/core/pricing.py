"""The price of a model at a moment, from genai-prices' packaged table and an override file.

Never from the network: a price that changes by itself would make a replay disagree with the first run.
Provider names go through an explicit map (``price_names``), since genai-prices' own matching takes
``azure.ai.openai`` for OpenAI, and fails on ``x_ai``. An unknown provider or model is unpriced, never guessed
by the model's name alone; except where the event names no provider at all: then the table's own matching is
used and the price is ``inferred``.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from typing import Any, Final, TypeVar

import genai_prices
from genai_prices.data import providers as _providers
from genai_prices.types import TieredPrices, TimeOfDateConstraint

from .price_names import CLAUDE_1H_FACTOR, is_claude, price_provider
from .price_overrides import Overrides
from .unit_price import Cost, Rates, UnitPrice

__all__ = ["Cost", "Overrides", "PriceTable", "Rates", "UnitPrice"]

MAX_KNOWN: Final = 65_536
"""Most (provider, model, day) remembered; the one remembered longest goes first."""
MAX_UNKNOWN: Final = 16_384
"""Most unpriced ones remembered; apart, so that a flood of made-up names cannot push out real models."""

_SECONDS_PER_DAY: Final = 86_400
_PROVIDERS: Final[dict[str, Any]] = {provider.id: provider for provider in _providers}
_FIELDS: Final = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_creation": "cache_write_mtok",
    "cache_creation_1h": "cache_write_1h_mtok",
    "reasoning": "output_reasoning_mtok",
    "request": "requests_kcount",
}

_Key = tuple[str, str, float]
K = TypeVar("K")
V = TypeVar("V")


class _Daily:
    """Prices that change within the day: ``units[i]`` holds from ``starts[i]`` seconds after midnight UTC."""

    __slots__ = ("starts", "units")

    def __init__(self, starts: list[float], units: list[UnitPrice | None]) -> None:
        self.starts = starts
        self.units = units

    def at(self, time: float) -> UnitPrice | None:
        return self.units[bisect_right(self.starts, time % _SECONDS_PER_DAY) - 1]


class PriceTable:
    """Looks prices up; one dictionary look-up for what was asked before. Not thread-safe.

    Args:
        overrides: prices that go before the built-in ones.

    Attributes:
        version: of the built-in table and the overrides, for provenance.
    """

    def __init__(self, overrides: Overrides | None = None) -> None:
        self.version: Final = f"genai-prices {genai_prices.__version__}" + (
            f" + overrides {overrides.digest}" if overrides else ""
        )
        self._overrides = overrides
        self._known: dict[_Key, UnitPrice | _Daily] = {}
        self._unknown: dict[_Key, None] = {}
        self._models: dict[tuple[str, str], Any] = {}
        self._units: dict[tuple[int, bool, bool], UnitPrice | None] = {}

    def unit(self, provider: str, model: str, time: float) -> UnitPrice | None:
        """The price of a model, or ``None``: unpriced.

        Args:
            provider: ``gen_ai.provider.name``, or an id of genai-prices'.
            model: the model's name.
            time: of the request, in Unix seconds. Prices change at midnight UTC, a few also within the day, but
                never within a minute.
        """
        key = (provider, model, time // _SECONDS_PER_DAY)
        found = self._known.get(key)
        if found is None:
            if key in self._unknown:
                return None
            found = self._find(key)
            if found is None:
                _remember(self._unknown, key, None, MAX_UNKNOWN)
                return None
            _remember(self._known, key, found, MAX_KNOWN)
        return found if found.__class__ is UnitPrice else found.at(time)  # type: ignore[union-attr]

    def _find(self, key: _Key) -> UnitPrice | _Daily | None:
        name, model, day = key
        provider = price_provider(name)
        if self._overrides is not None:
            unit = self._overrides.find(provider, model, int(day))
            if unit is not None:
                return unit
        info = self._model(provider, model)
        if info is None:
            return None
        starts = sorted({0.0, *_changes_of_day(info)})
        units = [
            self._unit_at(info, day * _SECONDS_PER_DAY + start, inferred=not provider) for start in starts
        ]
        if all(unit is units[0] for unit in units):
            return units[0]
        return _Daily(starts, units)

    def _model(self, provider: str, model: str) -> Any:
        """genai-prices' entry of a model, or ``None``."""
        key = (provider, model)
        if key not in self._models:
            # Not through genai_prices.calc_price: that keeps every name it ever saw, and an update of its
            # prices elsewhere in the process would change ours.
            info = None
            source = _PROVIDERS.get(provider) if provider else _provider_of(model)
            if source is not None and model:
                info = source.find_model(model, all_providers=_providers)
            _remember(self._models, key, info, MAX_UNKNOWN)
        return self._models[key]

    def _unit_at(self, info: Any, time: float, *, inferred: bool) -> UnitPrice | None:
        price = info.get_prices(datetime.fromtimestamp(time, UTC))
        # The table's objects live as long as the process, so their identity names them.
        key = (id(price), inferred, is_claude(info.id))
        if key not in self._units:
            self._units[key] = _unit_price(price, inferred=inferred, claude=key[2])
        return self._units[key]


def _remember(cache: dict[K, V], key: K, value: V, limit: int) -> None:
    if len(cache) >= limit:
        del cache[next(iter(cache))]
    cache[key] = value


def _provider_of(model: str) -> Any:
    name = model.lower()
    return next((p for p in _providers if p.model_match is not None and p.model_match.is_match(name)), None)


def _changes_of_day(info: Any) -> set[float]:
    """Seconds after midnight UTC at which a price of the model may change."""
    if not isinstance(info.prices, list):
        return set()
    return {
        _seconds(moment)
        for conditional in info.prices
        if isinstance(conditional.constraint, TimeOfDateConstraint)
        for moment in (conditional.constraint.start_time, conditional.constraint.end_time)
    }


def _seconds(moment: time_of_day) -> float:
    offset = moment.utcoffset()
    shift = offset.total_seconds() if offset else 0.0
    seconds = moment.hour * 3600 + moment.minute * 60 + moment.second + moment.microsecond / 1e6
    return (seconds - shift) // 60 * 60 % _SECONDS_PER_DAY


def _unit_price(price: Any, *, inferred: bool, claude: bool) -> UnitPrice | None:
    """The unit price of genai-prices' ``ModelPrice``; ``None`` where it has no rate for tokens.

    An empty entry means that nobody wrote the price down. genai-prices makes 0 $ of it; unpriced is not free.
    """
    if price.input_mtok is None and price.output_mtok is None:
        return None
    values = {field: getattr(price, key) for field, key in _FIELDS.items()}
    starts = sorted({t.start for v in values.values() if isinstance(v, TieredPrices) for t in v.tiers})
    tiers = [(start, _rates(values, start + 1, claude=claude)) for start in starts]
    return UnitPrice(_rates(values, 0, claude=claude), tiers, inferred=inferred)


def _rates(values: dict[str, Any], input_tokens: int, *, claude: bool) -> Rates:
    rates = {field: _at_tier(value, input_tokens) for field, value in values.items() if value is not None}
    if claude and "cache_creation" in rates and "cache_creation_1h" not in rates:
        rates["cache_creation_1h"] = CLAUDE_1H_FACTOR * rates["input"]
    return Rates(**{"input": 0, "output": 0} | rates)


def _at_tier(value: Any, input_tokens: int) -> Any:
    if not isinstance(value, TieredPrices):
        return value
    return next((t.price for t in reversed(value.tiers) if input_tokens > t.start), value.base)


def newest_price(until: date) -> date:
    """When the newest price of the built-in table began: so old the table is at most known to be."""
    starts: set[date | None] = {
        getattr(conditional.constraint, "start_date", None)
        for provider in _providers
        for model in provider.models
        if isinstance(model.prices, list)
        for conditional in model.prices
    }
    return max(start for start in starts if start is not None and start <= until)

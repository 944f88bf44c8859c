"""The store that the settings name."""

from __future__ import annotations

from tidegauge.settings import Settings

from .base import Store


def open_store(settings: Settings, *, readonly: bool = False) -> Store:
    """Open the store of ``settings.store.url``.

    Raises:
        SinkUnavailableError: it is not there, or cannot be opened.
    """
    url = settings.store.url
    if url.startswith("sqlite:///"):
        from .local import LocalStore

        return LocalStore(url.removeprefix("sqlite:///"), readonly=readonly)
    from .influx import InfluxStore

    return InfluxStore(settings.influxdb)

"""The store that the settings name."""

from __future__ import annotations

from pathlib import Path

from tidegauge.errors import SinkUnavailableError
from tidegauge.settings import Settings

from .base import Store


def open_store(settings: Settings, *, readonly: bool = False) -> Store:
    """Open the store of ``settings.store.url``.

    Args:
        settings: ``sqlite:///data/x.db`` is relative to the working folder, ``sqlite:////data/x.db`` is not.
        readonly: for a reader, which creates no file.

    Raises:
        SinkUnavailableError: it is not there, or cannot be opened.
    """
    url = settings.store.url
    if url.startswith("sqlite:///"):
        from .local import LocalStore

        path = Path(url.removeprefix("sqlite:///"))
        if readonly and not path.is_file() and not path.is_absolute() and Path("/", path).is_file():
            raise SinkUnavailableError(
                f"no store at {path.absolute()}: an absolute path takes a fourth slash, as in sqlite:////{path}"
            )
        return LocalStore(path, readonly=readonly)
    from .influx import InfluxStore

    return InfluxStore(settings.influxdb)

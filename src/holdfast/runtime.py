"""The one default of each thing, per process and settings value.

What lives here knows nothing of sessions or streams: it keeps the settings, the one supervised link
and whatever else its users ask to exist once. Nothing connects or starts before it is first used.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from holdfast.link import Link
    from holdfast.settings import Settings

T = TypeVar("T")

_runtimes: dict[Settings, Runtime] = {}
_by_environment: dict[Hashable, Runtime] = {}
_lock = threading.RLock()


class Runtime:
    """Settings, link and singletons of one configuration in one process.

    Args:
        settings: the configuration; two equal values share one runtime when taken by
        :func:`runtime`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._things: dict[Hashable, Any] = {}
        self._closers: list[Callable[[], Awaitable[None]]] = []

    def __repr__(self) -> str:
        return f"<Runtime {sorted(str(key) for key in self._things)}>"

    @property
    def link(self) -> Link | None:
        """The supervised link to Redis, or ``None`` where no Redis is configured."""
        if self.settings.redis_url is None:
            return None
        return self.once("link", self._make_link)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the one thing named *key*, made by *make* at the first call, in any thread."""
        with _lock:
            if key not in self._things:
                self._things[key] = make()
            thing: T = self._things[key]
            return thing

    def on_close(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Have *closer* awaited by :meth:`aclose`, last registered first."""
        self._closers.append(closer)

    async def aclose(self) -> None:
        """Close what was made here, last made first. The runtime may be used again afterwards."""
        with _lock:
            closers, self._closers = self._closers, []
            self._things.clear()
        for closer in reversed(closers):
            await closer()

    def _make_link(self) -> Link:
        from holdfast.link import Link

        link = Link(self.settings)
        self.on_close(link.aclose)
        return link


def runtime(settings: Settings | None = None) -> Runtime:
    """Return this process's runtime for *settings* (default: the environment as it is now).

    Raises:
        ConfigurationError: the environment holds values that cannot work; all are named at once.
    """
    if settings is None:
        return _of_environment()
    with _lock:
        return _runtimes.setdefault(settings, Runtime(settings))


def _of_environment() -> Runtime:
    """Reading and checking every variable takes longer than an event: once for each environment."""
    from holdfast.settings import Settings, fingerprint

    seen = fingerprint()
    found = _by_environment.get(seen)
    if found is None:
        found = _by_environment[seen] = runtime(Settings())
    return found


async def aclose() -> None:
    """Close every default of this process: links, hubs and what waits in them."""
    with _lock:
        closing = list(_runtimes.values())
        _runtimes.clear()
        _by_environment.clear()
    for each in closing:
        await each.aclose()

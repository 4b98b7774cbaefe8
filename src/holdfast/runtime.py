"""The one default of each thing, per process and settings value.

What lives here knows nothing of sessions or streams: it keeps the settings, the one supervised link
and whatever else its users ask to exist once. Nothing connects or starts before it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.forks import ForkSafeLock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable

    from holdfast.link import Link
    from holdfast.settings import Settings

T = TypeVar("T")

_runtimes: dict[Settings, Runtime] = {}
_by_environment: dict[Hashable, Runtime] = {}
_lock = ForkSafeLock()


class Runtime:
    """Settings, link and singletons of one configuration in one process.

    Args:
        settings: the configuration; two equal values share one runtime when taken by
        :func:`runtime`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._things: dict[Hashable, Any] = {}
        self._flushers: list[Callable[[], Awaitable[None]]] = []
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
        with _lock():
            if key not in self._things:
                self._things[key] = make()
            thing: T = self._things[key]
            return thing

    def on_close(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Have *closer* awaited by :meth:`aclose`, last registered first."""
        self._closers.append(closer)

    def on_flush(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Have *flush* awaited by :meth:`flush`, and by :meth:`aclose` before all closing."""
        self._flushers.append(flush)

    async def flush(self) -> None:
        """Write what waits in this process, and close nothing: the last word at a shutdown.

        All are awaited even if one raises; the first error is raised after.
        """
        await _each(list(self._flushers))

    async def aclose(self) -> None:
        """Close what was made here, last made first. The runtime may be used again afterwards.

        Everything is closed even if one closing raises; the first error is raised after.
        """
        with _lock():
            flushers, self._flushers = self._flushers, []
            closers, self._closers = self._closers, []
            self._things.clear()
        await _each([*flushers, *reversed(closers)])

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
    made = Runtime(settings)
    with _lock():
        return _runtimes.setdefault(settings, made)


def _of_environment() -> Runtime:
    """Reading and checking every variable takes longer than an event: once for each environment."""
    from holdfast.settings import Settings, fingerprint

    seen = fingerprint()
    found = _by_environment.get(seen)
    if found is None:
        found = _by_environment[seen] = runtime(Settings())
    return found


async def aclose() -> None:
    """Close every default of this process: links, hubs and what waits in them.

    Everything is closed even if one closing raises; the first error is raised after.
    """
    with _lock():
        closing = list(_runtimes.values())
        _runtimes.clear()
        _by_environment.clear()
    await _each([each.aclose for each in closing])


async def _each(steps: Iterable[Callable[[], Awaitable[None]]]) -> None:
    first: BaseException | None = None
    for step in steps:
        try:
            await step()
        except BaseException as error:  # noqa: BLE001 - a cancellation too: all is raised after
            first = first or error
    if first is not None:
        raise first

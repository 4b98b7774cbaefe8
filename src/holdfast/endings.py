"""Word that a session has ended, from whoever ended it to whoever serves something long under it.

Below sessions and streams, which do not know each other. One channel per key prefix carries all
endings of all processes, and is listened to only while something long is open. Nothing here
decides when a session ends, or what its end means.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.forks import watch_forks

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.link import Link, Listener
    from holdfast.runtime import Runtime

#: Where a WSGI environ has what ends a stream with the session of its request: a function from an
#: ASGI app to an ASGI app, put there by the door of sessions and used by who streams.
BOND_KEY = "holdfast.session.bond"

#: What a session has whose request waits, before it begins to stream, for something to be there:
#: put there by who streams. The door of sessions then looks whether it has ended meanwhile, before
#: anything is sent.
WAITED = "holdfast_waited"


@dataclass(frozen=True, eq=False, slots=True)
class Watch:
    """Something long that is served under a session.

    Attributes:
        id_hash: of the session.
        secret_hash: of the secret that it was opened with.
        end: called once, on the loop that it was opened on.
        doubt: called there when endings may have been missed.
        loop: that loop.
    """

    id_hash: str
    secret_hash: str
    end: Callable[[], None]
    doubt: Callable[[], None]
    loop: asyncio.AbstractEventLoop


class Endings:
    """Who wants to hear, in this process, that a session has ended.

    Safe for threads. It costs nothing while nobody watches.

    Args:
        link: the Redis through which other processes tell theirs; ``None``: there are none.
        prefix: put before every key.
    """

    def __init__(self, link: Link | None = None, prefix: str = "") -> None:
        self._link = link
        self._channel = channel(prefix)
        self._inherited: list[object] = []
        self._listeners: dict[asyncio.AbstractEventLoop, tuple[Listener, asyncio.Task[None]]] = {}
        self.forked()
        watch_forks(self)

    def __repr__(self) -> str:
        return f"<Endings, {sum(map(len, self._watches.values()))} watching>"

    def forked(self) -> None:
        """Begin, also in a forked child: whoever watches is served by the parent's event loops."""
        self._lock = threading.Lock()
        self._watches: dict[str, set[Watch]] = {}
        # Kept, not dropped: a task that ends with its last name would say so in the log.
        self._inherited.append(self._listeners)
        self._listeners = {}

    def watch(
        self,
        id_hash: str,
        secret_hash: str,
        end: Callable[[], None],
        doubt: Callable[[], None],
    ) -> Callable[[], None]:
        """Have *end* called when the session ends, or when a new secret kills this one.

        *doubt* is called when other processes may have told endings that nobody could hear here.
        Call it on a running asyncio loop, and what it returns, on the same loop, when what was
        watched for is over.
        """
        loop = asyncio.get_running_loop()
        each = Watch(id_hash, secret_hash, end, doubt, loop)
        with self._lock:
            self._watches.setdefault(id_hash, set()).add(each)
        self._listen(loop)
        return lambda: self._drop(each)

    def tell(self, id_hash: str, spared: str = "") -> None:
        """Tell those in this process that a session has ended.

        Args:
            id_hash: of the session.
            spared: hash of the secret that replaced all others; what it opened goes on. Empty: the
                session is gone.
        """
        if not self._watches:
            return
        for loop in {each.loop for each in self._concerned(id_hash, spared)}:
            if loop is _running_loop():
                self._end(loop, id_hash, spared)
            else:
                # The loop may have been closed meanwhile, and with it all that it served.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._end, loop, id_hash, spared)

    def _concerned(self, id_hash: str, spared: str) -> list[Watch]:
        with self._lock:
            found = self._watches.get(id_hash, ())
            return [each for each in found if each.secret_hash != spared]

    def _end(self, loop: asyncio.AbstractEventLoop, id_hash: str, spared: str) -> None:
        for each in self._concerned(id_hash, spared):
            if each.loop is loop:
                self._drop(each)
                each.end()

    def _all_on(self, loop: asyncio.AbstractEventLoop) -> list[Watch]:
        with self._lock:
            watches = [each for found in self._watches.values() for each in found]
        return [each for each in watches if each.loop is loop]

    def _drop(self, watch: Watch) -> None:
        with self._lock:
            left = self._watches.get(watch.id_hash, set())
            left.discard(watch)
            if not left:
                self._watches.pop(watch.id_hash, None)

    # --- other processes ------------------------------------------------------------------------

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        # A Listener may have been closed with its loop: it goes with it.
        self._listeners = {k: v for k, v in self._listeners.items() if not k.is_closed()}
        if self._link is None or loop in self._listeners:
            return
        from holdfast.link import Listener

        def heard(_channel: bytes, message: bytes) -> None:
            id_hash, _, spared = message.decode("latin-1").partition(" ")
            self._end(loop, id_hash, spared)

        def missed() -> None:
            for each in self._all_on(loop):
                each.doubt()

        listener = Listener(self._link, heard, missed)
        task = loop.create_task(listener.add(self._channel), name="holdfast-endings")
        # Until the channel is heard, something may be missed as well.
        task.add_done_callback(lambda _: missed())
        self._listeners[loop] = listener, task

    async def aclose(self) -> None:
        """Stop listening on the running loop, and forget who watches there."""
        loop = asyncio.get_running_loop()
        found = self._listeners.pop(loop, None)
        for each in self._all_on(loop):
            self._drop(each)
        if found is not None:
            listener, task = found
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await listener.aclose()


def channel(prefix: str) -> str:
    """Return the Pub/Sub channel of one key prefix; the scripts that end a session name it too."""
    return f"{prefix}session:ended"


def endings(runtime: Runtime) -> Endings:
    """Return the one registry of *runtime*."""

    def make() -> Endings:
        made = Endings(runtime.link, runtime.settings.key_prefix)
        runtime.on_close(made.aclose)
        return made

    return runtime.once("endings", make)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

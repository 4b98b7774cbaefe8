"""The one door to Redis: gate, lanes of loops and threads, and supervisor, put together.

No policy and no bytes in here: the table decides (`state`), the lanes carry (`lane`, `sync`).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import time
import weakref
from typing import TYPE_CHECKING, cast

from holdfast.errors import RedisReplyError, RedisUnavailable
from holdfast.forks import watch_forks
from holdfast.link import client, slots
from holdfast.link.cluster import ClusterLane, ClusterThreads
from holdfast.link.lane import Lane
from holdfast.link.replication import Replication
from holdfast.link.state import LinkState, LinkStatus
from holdfast.link.supervisor import Hook, Supervisor
from holdfast.link.sync import Answers, Command, SyncLane
from holdfast.link.tally import Tally
from holdfast.link.topology import Topology
from holdfast.link.translate import Arg, Reply, raised

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.link.pubsub import Listener
    from holdfast.link.script import Script
    from holdfast.settings import Settings


class Link:
    """One supervised link to one Redis, for a whole process: all its event loops and threads.

    Making one connects nothing and starts nothing; the first command does. After a fork the child's
    copy begins anew by itself.

    Args:
        settings: ``redis_url`` (required), ``redis_timeout`` and ``key_prefix`` are used.

    Raises:
        ConfigurationError: the URL is missing.
    """

    def __init__(self, settings: Settings) -> None:
        self.topology = Topology(client.target(settings))
        self.timeout = float(settings.redis_timeout)
        self._supervisor = Supervisor(self.topology, self.timeout, settings.key_prefix)
        self._gate = self._supervisor.gate
        self._lanes: dict[asyncio.AbstractEventLoop, Lane | ClusterLane] = {}
        self._threads = self._new_threads()
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._inherited: list[object] = []
        self._tally = Tally(self._supervisor)
        self.on_transition(self._tally.note)
        self.on_transition(_letting_go(self._threads))
        self._replication = Replication(self.pipeline_sync, self.slot, self.timeout)
        _watch_process(self)

    def __repr__(self) -> str:
        return f"<Link {self.status.state.value}>"

    @property
    def up(self) -> bool:
        """Whether commands are sent now: the cheap check of the request path."""
        return self._gate.up

    @property
    def decided(self) -> bool:
        """Whether the first verdict has been given: until then commands wait for it."""
        return self._supervisor.decided

    @property
    def status(self) -> LinkStatus:
        """The state, since when, and why."""
        return self._supervisor.status

    @property
    def target(self) -> client.Target:
        """Where to connect for what any node can do."""
        return self.topology.target

    def slot(self, key: str | bytes) -> int:
        """Return a number that is the same for keys which one script or command may name together.

        That is the slot in a Cluster, else always 0.
        """
        return slots.slot_of(key) if self.topology.clustered else 0

    def start(self) -> None:
        """Start supervision; again is nothing. The first command does it by itself."""
        self._supervisor.start()

    async def ready(self) -> bool:
        """Wait for the first verdict, at most ``REDIS_TIMEOUT`` seconds; return `up`."""
        self.start()
        if self._supervisor.decided:
            return self.up
        loop, decided = asyncio.get_running_loop(), asyncio.Event()

        def notice(status: LinkStatus) -> None:
            if status.state in (LinkState.UP, LinkState.DOWN):
                # The loop may have been closed in the meantime.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(decided.set)

        unsubscribe = self.on_transition(notice)
        try:
            async with asyncio.timeout(self.timeout):
                while not self._supervisor.decided:
                    await decided.wait()
        except TimeoutError:
            pass
        finally:
            unsubscribe()
        return self.up

    def ready_sync(self) -> bool:
        """As `ready`, for a thread without an event loop."""
        self.start()
        self._supervisor.wait_decided(self.timeout)
        return self.up

    def send(self, *args: Arg) -> asyncio.Future[Reply]:
        """Queue one command in this tick's batch of the running loop.

        Commands of one loop reach Redis in the order they were queued. While the link is not up the
        future has failed at once and nothing was sent. Cancelling it abandons the reply; a command
        that has left is not called back.

        Returns:
            A future of the reply, which raises `RedisUnavailable` or `RedisReplyError`.

        Raises:
            TypeError: an argument is neither ``str``, ``bytes``, ``int`` nor ``float``.
        """
        return self._send(args)

    def _send(self, args: Sequence[Arg], *, more: bool = False) -> asyncio.Future[Reply]:
        loop = asyncio.get_running_loop()
        if not self._gate.up:
            refused: asyncio.Future[Reply] = loop.create_future()
            refused.set_exception(self._unavailable())
            return refused
        lane = self._lanes.get(loop)
        if lane is None:
            lane = self._new_lane(loop)
        return lane.send(tuple(args), more=more)

    async def execute(self, *args: Arg) -> Reply:
        """Send one command and return its reply. The first use starts supervision and waits for it.

        Raises:
            RedisUnavailable: Redis is away or did not answer within ``REDIS_TIMEOUT`` seconds.
            RedisReplyError: Redis refused this command.
        """
        if self._gate.up:
            return await self._send(args)
        return await self._first(self.send, args)

    async def _first(
        self, send: Callable[..., asyncio.Future[Reply]], args: Sequence[Arg]
    ) -> Reply:
        """The slow way in: the wait for the first verdict and the command share one deadline."""
        if self._supervisor.decided:
            raise self._unavailable()
        try:
            async with asyncio.timeout(self.timeout):
                if not await self.ready():
                    raise self._unavailable()
                return await send(*args)
        except TimeoutError:
            raise RedisUnavailable("timeout") from None

    async def run(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[Arg] = ()
    ) -> Reply:
        """Run *script*: by its digest, and once by its source where the server has forgotten it.

        Raises:
            RedisUnavailable: Redis is away or did not answer within ``REDIS_TIMEOUT`` seconds.
            RedisReplyError: the script raised, or was refused.
        """
        start = time.monotonic()
        try:
            return await self.execute(*script.evalsha(keys, args))
        except RedisReplyError as error:
            # NOSCRIPT means that nothing was run, so sending it again cannot do it twice.
            if error.code != "NOSCRIPT":
                raise
        try:
            async with asyncio.timeout(self.timeout - (time.monotonic() - start)):
                return await self.execute(*script.eval(keys, args))
        except TimeoutError:
            raise RedisUnavailable("timeout") from None

    def post(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Arg] = ()) -> None:
        """Run *script* after what this loop has sent, and wait for nothing: as well as may be.

        Raises:
            TypeError: an argument is neither ``str``, ``bytes``, ``int`` nor ``float``.
        """

        def heard(done: asyncio.Future[Reply]) -> None:
            error = None if done.cancelled() else done.exception()
            if isinstance(error, RedisReplyError) and error.code == "NOSCRIPT":
                again = self.send(*script.eval(keys, args))
                # Whatever it says has been asked for: else it is told as never retrieved.
                again.add_done_callback(lambda done: done.cancelled() or done.exception())

        self.send(*script.evalsha(keys, args)).add_done_callback(heard)

    async def pipeline(self, commands: Sequence[Command]) -> Answers:
        """Send *commands* as one batch under one deadline; it is no transaction.

        Returns:
            A reply or an error for each command, in its place: it raises neither.
        """
        if not self._gate.up and not self._supervisor.decided:
            await self.ready()
        futures: list[asyncio.Future[Reply]] = []
        try:
            futures.extend(self._send(command, more=True) for command in commands)
        except TypeError:
            # Nothing has left yet: it is all of them or none.
            for future in futures:
                future.cancel()
            raise
        return cast("Answers", await asyncio.gather(*futures, return_exceptions=True))

    def execute_sync(self, *args: Arg) -> Reply:
        """As `execute`, for a thread without an event loop; it blocks the thread.

        Raises:
            RedisUnavailable: Redis is away or did not answer within ``REDIS_TIMEOUT`` seconds.
            RedisReplyError: Redis refused this command.
        """
        return raised(self._batch([args], time.monotonic() + self.timeout)[0])

    def run_sync(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[Arg] = ()
    ) -> Reply:
        """As `run`, for a thread without an event loop; it blocks the thread."""
        deadline = time.monotonic() + self.timeout
        try:
            return raised(self._batch([script.evalsha(keys, args)], deadline)[0])
        except RedisReplyError as error:
            if error.code != "NOSCRIPT":
                raise
        return raised(self._batch([script.eval(keys, args)], deadline)[0])

    def pipeline_sync(self, commands: Sequence[Command]) -> Answers:
        """Send *commands* as one batch under one deadline, from a thread without an event loop.

        Returns:
            A reply or an error reply for each command, in its place.

        Raises:
            RedisUnavailable: Redis is away, or not all were answered in ``REDIS_TIMEOUT`` seconds.
        """
        return self._batch(commands, time.monotonic() + self.timeout)

    def _batch(self, commands: Sequence[Command], deadline: float) -> Answers:
        if not self._gate.up and (self._supervisor.decided or not self.ready_sync()):
            raise self._unavailable()
        return self._threads.call(commands, deadline)

    async def replicas(self, key: str, wanted: int) -> int:
        """Return how many replicas hold what this process has written to the node of *key*.

        Waits for *wanted* of them, at most four fifths of ``REDIS_TIMEOUT`` seconds.

        Raises:
            RedisUnavailable: Redis is away or did not answer.
            RedisReplyError: its user may not call ``WAIT``.
        """
        return await self._replication.count_async(key, wanted)

    def replicas_sync(self, key: str, wanted: int) -> int:
        """As `replicas`, for a thread without an event loop; it blocks the thread."""
        return self._replication.count(key, wanted)

    def on_recovery(self, name: str, hook: Hook) -> None:
        """Have *hook* run in the supervisor's thread whenever Redis comes up, the first time too.

        Hooks run in the order registered, before the gate opens. A `RedisUnavailable` from one is
        down again; any other exception is logged, and recovery goes on. Registering the same hook
        again changes nothing.
        """
        self._supervisor.on_recovery(name, hook)

    def on_beat(self, name: str, hook: Hook) -> None:
        """Have *hook* run in the supervisor's thread every few seconds while Redis is up.

        It gets what a recovery hook gets. A `RedisUnavailable` from it has Redis probed again; any
        other exception is logged. Registering the same hook again changes nothing.
        """
        self._supervisor.on_beat(name, hook)

    def on_transition(self, callback: Callable[[LinkStatus], None]) -> Callable[[], None]:
        """Have *callback* called from the supervisor's thread with each new status.

        Returns:
            A function that ends that.
        """
        return self._supervisor.on_transition(callback)

    async def aclose(self) -> None:
        """Close every connection and stop supervision. What still waits fails with ``closed``."""
        self._shut()
        # Looked at, not joined: a join would hold up the loop or cost it another thread.
        last = time.monotonic() + self._patience
        while self._supervisor.running and time.monotonic() < last:  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    def close(self) -> None:
        """As `aclose`, for a thread without an event loop."""
        self._shut()
        self._supervisor.join(self._patience)

    @property
    def _patience(self) -> float:
        """How long the supervisor may need to end: it may be connecting, or in a recovery hook."""
        return 2 * self.timeout + 0.5

    def _shut(self) -> None:
        self._supervisor.stop()
        self._threads.close()
        running = _running_loop()
        for loop, lane in list(self._lanes.items()):
            if loop is running:
                lane.close()
            else:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(lane.close)
        self._lanes.clear()

    def adopt(self, listener: Listener) -> None:
        """Have *listener* let go of its connection in a forked child."""
        self._listeners.add(listener)

    def _unavailable(self) -> RedisUnavailable:
        status = self.status
        return RedisUnavailable(status.reason or status.state.value)

    def _new_lane(self, loop: asyncio.AbstractEventLoop) -> Lane | ClusterLane:
        for other in list(self._lanes):
            if other.is_closed():
                self._lanes.pop(other, None)
        supervised = self.timeout, self._gate, self._supervisor.report, self._forget
        lane: Lane | ClusterLane
        if self.topology.clustered:
            lane = ClusterLane(loop, self.topology, *supervised)
        else:
            lane = Lane(loop, lambda: self.target, *supervised)
        self._lanes[loop] = lane
        return lane

    def _new_threads(self) -> SyncLane | ClusterThreads:
        supervised = self.timeout, self._gate, self._supervisor.report
        if self.topology.clustered:
            return ClusterThreads(self.topology, *supervised)
        return SyncLane(lambda: self.target, *supervised)

    def _forget(self, lane: Lane | ClusterLane) -> None:
        if self._lanes.get(lane.loop) is lane:
            del self._lanes[lane.loop]

    def forked(self) -> None:
        """In the child: begin anew, and never touch what the parent is still using."""
        inherited: list[Lane | ClusterLane | Listener] = [*self._lanes.values(), *self._listeners]
        for each in inherited:
            each.abandon()
        self._inherited += inherited
        self._lanes = {}
        self._listeners = weakref.WeakSet()
        self._threads.close()
        self._supervisor.forked()


def _letting_go(threads: SyncLane | ClusterThreads) -> Callable[[LinkStatus], None]:
    """Return what has nothing arrive after an outage that threads had given up before it."""

    def let_go(status: LinkStatus) -> None:
        if status.state is LinkState.DOWN:
            threads.close()

    return let_go


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


_links: weakref.WeakSet[Link] = weakref.WeakSet()
_watching: list[bool] = []


def _watch_process(link: Link) -> None:
    _links.add(link)
    watch_forks(link)
    # At the first link, not at import; it cannot be taken back, so once per process.
    if not _watching:
        _watching.append(True)
        atexit.register(_at_exit)


def _at_exit() -> None:
    # The thread ends with the process; what it and the other threads hold is closed in good order.
    for link in list(_links):
        link._shut()  # noqa: SLF001

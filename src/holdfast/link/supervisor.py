"""The one watcher of Redis in a process: a thread that probes, decides by the table, and tells.

It never serves a request; requests read its `Gate` and tell it what they see. The thread is a plain
one with a connection of its own, so that a blocked event loop, or none at all, changes nothing.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from holdfast import signals
from holdfast.errors import RedisReplyError, RedisUnavailable
from holdfast.jitter import between
from holdfast.link.capabilities import missing_commands, parse_info, worries
from holdfast.link.conversing import converse
from holdfast.link.state import Event, LinkState, LinkStatus, after, event_of_probe
from holdfast.link.translate import Arg, Reply, raised

if TYPE_CHECKING:
    from holdfast.link.conversing import AnyConversation
    from holdfast.link.script import Script
    from holdfast.link.sync import Answers, Command
    from holdfast.link.topology import Topology

log = logging.getLogger("holdfast.link")

HOLD_DOWN = 2.0
PROBE_INTERVAL = 1.0
BEAT_INTERVAL = 3.0
CANARY_TTL_MS = 10_000

# What becomes of sessions meanwhile is a setting of theirs.
DOWN_LINE = (
    "Redis is unavailable ({}): nothing is asked of it until a probe finds it back"
    " (docs/production/outages.md says what goes on meanwhile)"
)

REMEDIES = {
    "auth": "check the user and the password in HOLDFAST_REDIS_URL, and what that user may do"
    " (docs/production/redis-user.md)",
    "readonly": "HOLDFAST_REDIS_URL leads to a read-only replica: point it at the master",
    "unsupported": "a Cluster needs redis+cluster:// in HOLDFAST_REDIS_URL, and nothing else does;"
    " point it at a Redis 5.0 or newer (or Valkey)",
    "database": "HOLDFAST_REDIS_URL names a database that this server does not have",
    "tls": "check the certificates, and whether HOLDFAST_REDIS_URL needs rediss or redis",
    "protocol": "check that HOLDFAST_REDIS_URL leads to a Redis",
}


class Gate:
    """What the request path reads: two plain attributes, written by the supervisor alone.

    Attributes:
        up: whether commands may be sent.
        generation: the number of outages so far; what was opened before the last one is stale.
    """

    __slots__ = ("generation", "up")

    def __init__(self) -> None:
        self.up = False
        self.generation = 0


class Recovery(Protocol):
    """What a recovery hook talks to Redis with: past the gate, on the supervisor's own connection.

    Each call has ``REDIS_TIMEOUT`` seconds, and raises `RedisUnavailable` (let it pass: the link
    goes down again and the hook is called at the next recovery) or `RedisReplyError`.
    """

    def execute(self, *args: Arg) -> Reply:
        """Send one command and return its reply."""

    def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Arg]) -> Reply:
        """Run a script and return its reply."""

    def pipeline(self, commands: Sequence[Command]) -> Answers:
        """Send *commands* as one batch; reply errors stay in place."""


Hook = Callable[[Recovery], None]
Callback = Callable[[LinkStatus], None]


class Supervisor:
    """Keeps the state of one link.

    Args:
        topology: where Redis is; kept up to date here.
        timeout: seconds that a probe may take.
        prefix: put before the canary's key.
    """

    def __init__(self, topology: Topology, timeout: float, prefix: str) -> None:
        self.gate = Gate()
        self._topology = topology
        self._timeout = timeout
        self._prefix = prefix
        self._hooks: list[tuple[str, Hook]] = []
        self._beats: list[tuple[str, Hook]] = []
        self._callbacks: list[Callback] = []
        self._stopping = False
        self._warned: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        """Start from nothing: when made, and in a forked child, whose locks nobody may release."""
        self.gate.up = False
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._conversation: AnyConversation | None = None
        self._status = LinkStatus(LinkState.STARTING, time.time())
        self._news: deque[LinkStatus] = deque()
        self._decided = threading.Event()
        self._down_at = 0.0
        self._beat_due = 0.0
        self._canary = f"{self._prefix}holdfast:canary:{secrets.token_hex(8)}"

    def forked(self) -> None:
        """In a forked child: forget the parent's thread; the next use starts one of its own."""
        if self._conversation is not None:
            self._conversation.close()
        self._begin()
        if self._stopping:
            self.stop()  # closed is closed in the child too, and nobody waits for a verdict

    @property
    def status(self) -> LinkStatus:
        return self._status

    @property
    def decided(self) -> bool:
        """Whether the first verdict has been given."""
        return self._decided.is_set()

    def wait_decided(self, timeout: float) -> None:
        """Wait for the first verdict, at most *timeout* seconds."""
        self._decided.wait(timeout)

    def start(self) -> None:
        """Start the thread, once per process."""
        if self._thread is None:
            with self._lock:
                self._start()

    def _start(self) -> None:
        if self._thread is None and not self._stopping:
            thread = threading.Thread(target=self._run, name="holdfast-link", daemon=True)
            # First: to start it, gevent has other greenlets run, which look whether there is one. A
            # lock that was made before it patched the process would stop them all.
            self._thread = thread
            try:
                thread.start()
            except BaseException:
                # The system has no thread left; the next use asks for one again.
                self._thread = None
                raise

    def stop(self) -> None:
        """Shut the gate for good and have the thread end after what it is doing."""
        with self._lock:
            self._stopping = True
            self.gate.up = False
            self._status = LinkStatus(LinkState.DOWN, time.time(), "closed")
        self._decided.set()
        self._wake.set()

    @property
    def running(self) -> bool:
        """Whether the thread has work to finish; never so for the thread itself."""
        thread = self._thread
        return thread is not None and thread is not threading.current_thread() and thread.is_alive()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, at most *timeout* seconds."""
        if self.running and self._thread is not None:
            self._thread.join(timeout)

    def on_recovery(self, name: str, hook: Hook) -> None:
        """Have *hook* run in every recovery, *name* being for the log; the same hook once."""
        with self._lock:
            if (name, hook) not in self._hooks:
                self._hooks.append((name, hook))

    def on_beat(self, name: str, hook: Hook) -> None:
        """Have *hook* run every few seconds while Redis is up; the same hook once."""
        with self._lock:
            if (name, hook) not in self._beats:
                self._beats.append((name, hook))

    def on_transition(self, callback: Callback) -> Callable[[], None]:
        """Have *callback* called with each new status; returns the way to end that."""
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    def report(self, error: RedisUnavailable, generation: int) -> None:
        """Take note of an outage that a command met. Any thread; cheap; never raises.

        What belongs to an earlier *generation* is old news and ignored.
        """
        event = Event.TIMEOUT if error.reason == "timeout" else Event.FAILED
        with self._lock:
            if generation != self.gate.generation or not self._apply(event, error):
                return
        self._wake.set()

    def _apply(self, event: Event, error: RedisUnavailable | None = None) -> bool:
        """Move by the table, under the lock. Returns whether the state changed."""
        old = self._status
        new = after(old.state, event)
        if new is old.state or self._stopping:
            return False
        self.gate.up = new is LinkState.UP
        if new is LinkState.DOWN:
            self.gate.generation += 1
            self._down_at = time.monotonic()
        self._status = LinkStatus(new, time.time(), _reason(new, error, old))
        self._news.append(self._status)
        if new in (LinkState.UP, LinkState.DOWN):
            self._decided.set()
        return True

    # From here on: the thread.

    def _run(self) -> None:
        teller = Teller(self._callbacks)
        while not self._stopping:
            try:
                self._round(teller)
            except Exception:
                log.exception("the supervisor of the link to Redis failed, and goes on")
                self._wake.wait(PROBE_INTERVAL)
        self._drop()

    def _round(self, teller: Teller) -> None:
        self._tell(teller)
        failure = self._probe()
        with self._lock:
            state = self._status.state
            held = time.monotonic() - self._down_at >= HOLD_DOWN
            reason = failure.reason if failure is not None else None
            self._apply(event_of_probe(state, reason, held=held), failure)
        self._tell(teller)
        if self._status.state is LinkState.RECOVERING:
            self._recover()
            self._tell(teller)
        elif self._status.state is LinkState.UP and time.monotonic() >= self._beat_due:
            self._beat()
        self._rest()

    def _beat(self) -> None:
        self._beat_due = time.monotonic() + BEAT_INTERVAL
        if self._run_hooks(self._beats) is not None:
            # Whether that is an outage is for the next probe to say.
            self._drop()

    def _rest(self) -> None:
        if self._status.state is LinkState.SUSPECT:
            return
        # Jittered, so that the processes of a fleet do not ask in step.
        pause = between(0.5, 1.0) * PROBE_INTERVAL
        if self._status.state is LinkState.DOWN:
            held_in = self._down_at + HOLD_DOWN - time.monotonic()
            pause = min(pause, held_in) if held_in > 0 else pause
        self._wake.wait(pause)
        self._wake.clear()

    def _tell(self, teller: Teller) -> None:
        while self._news:
            teller.tell(self._news.popleft())

    def _probe(self) -> RedisUnavailable | None:
        """Write a canary and read it back. PING would pass on a replica and on a full server."""
        value = secrets.token_hex(4)
        try:
            kept = self._write_and_read(value)
        except RedisUnavailable as error:
            failure = error
        except RedisReplyError as error:
            failure = RedisUnavailable("canary", f"it refused to write ({error.code})")
        else:
            if kept:
                return None
            failure = RedisUnavailable("canary", "it did not keep what was written")
        # Also after an error reply: behind the next connection may be another server, a new master.
        self._drop()
        self._topology.doubt()
        return failure

    def _write_and_read(self, value: str) -> bool:
        conversation = self._connected()
        commands: list[Command] = []
        for key in conversation.canaries(self._canary):
            commands += [("SET", key, value, "PX", CANARY_TTL_MS), ("GET", key)]
        deadline = time.monotonic() + self._timeout
        answers = [raised(answer) for answer in conversation.call(commands, deadline)]
        return all(read == value.encode() for read in answers[1::2])

    def _connected(self) -> AnyConversation:
        """The connection, or a new one: its handshake may take longer than a command may."""
        if self._conversation is not None and self._conversation.stale():
            self._drop()
        if self._conversation is None:
            self._conversation = converse(self._topology, self._timeout)
            deadline = time.monotonic() + self._timeout
            missing = missing_commands(self._conversation, deadline)
            if missing:
                raise RedisUnavailable("unsupported", f"it has no {', '.join(missing)}")
        return self._conversation

    def _drop(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.close()

    def _recover(self) -> None:
        failure = self._run_hooks(self._hooks)
        if failure is not None:
            self._drop()
        with self._lock:
            self._apply(Event.RECOVERED if failure is None else Event.RECOVERY_FAILED, failure)
        if failure is None:
            self._look_over()

    def _look_over(self) -> None:
        """Warn of a Redis that will lose what it keeps: once of each danger."""
        try:
            (answer,) = self.call([("INFO",)])
        except RedisUnavailable:
            return  # a user that may not ask, or it is gone again, which the next probe tells
        for text in worries(parse_info(answer)) if isinstance(answer, bytes) else ():
            if text not in self._warned:
                self._warned.add(text)
                log.warning("Redis is not set up to keep sessions and streams: %s", text)

    def _run_hooks(self, hooks: list[tuple[str, Hook]]) -> RedisUnavailable | None:
        recovery = _Recovery(self)
        for name, hook in list(hooks):
            try:
                hook(recovery)
            except RedisUnavailable as error:
                return error
            except Exception:
                signals.count("redis_recovery_errors")
                log.exception("the recovery hook %r failed; recovery goes on", name)
        return None

    def call(self, commands: Sequence[Command]) -> Answers:
        """Send *commands* over the supervisor's connection; for recovery hooks, in its thread."""
        answers = self._connected().call(commands, time.monotonic() + self._timeout)
        for answer in answers:
            if isinstance(answer, RedisUnavailable):
                raise answer
        return answers


def _reason(new: LinkState, error: RedisUnavailable | None, old: LinkStatus) -> str | None:
    if new is LinkState.UP:
        return None
    return error.reason if error is not None else old.reason


class _Recovery:
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def execute(self, *args: Arg) -> Reply:
        return raised(self._supervisor.call([args])[0])

    def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Arg]) -> Reply:
        try:
            return self.execute(*script.evalsha(keys, args))
        except RedisReplyError as error:
            if error.code != "NOSCRIPT":
                raise
        return self.execute(*script.eval(keys, args))

    def pipeline(self, commands: Sequence[Command]) -> Answers:
        return self._supervisor.call(commands)


class Teller:
    """Tells the log and the subscribers of transitions, in the supervisor's thread.

    Args:
        callbacks: the subscribers, as they are when there is something to tell.
    """

    def __init__(self, callbacks: list[Callback]) -> None:
        self._callbacks = callbacks
        self._down: LinkStatus | None = None
        self._first = True

    def tell(self, status: LinkStatus) -> None:
        """Write the line of *status*, if it has one, and call every subscriber."""
        self._log(status)
        for callback in list(self._callbacks):
            try:
                callback(status)
            except Exception:
                log.exception("a subscriber to the link's transitions failed")

    def _log(self, status: LinkStatus) -> None:
        fields = {"redis_state": status.state.value, "redis_since": status.since}
        if status.state is LinkState.DOWN and self._down is None:
            self._down = status
            remedy = REMEDIES.get(status.reason or "")
            log.warning(
                "%s%s",
                DOWN_LINE.format(status.reason),
                f"; {remedy}" if remedy else "",
                extra={**fields, "redis_reason": status.reason},
            )
        elif status.state is LinkState.UP:
            if self._down is not None:
                away = status.since - self._down.since
                outage = {"redis_reason": self._down.reason, "redis_away_seconds": away}
                log.warning("Redis is back after %.1f s", away, extra={**fields, **outage})
            elif self._first:
                log.info("Redis is up", extra=fields)
            self._down = None
        self._first = self._first and status.state not in (LinkState.UP, LinkState.DOWN)

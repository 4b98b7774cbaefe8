"""Commands of threads without an event loop: blocking, a connection each while they talk.

No loop anywhere: one in a helper thread would be seen by every greenlet under gevent, and costs
more than it gives.
"""

from __future__ import annotations

import os
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

import hiredis

from holdfast.errors import HoldfastError, RedisUnavailable
from holdfast.link.client import SyncStream, Target, connect_sync, take_back_unsent
from holdfast.link.lane import NOT_YET, Report, new_reader, pack
from holdfast.link.spin import CROWDED_SECONDS, Spin
from holdfast.link.translate import Arg, Reply, lost

if TYPE_CHECKING:
    from holdfast.link.supervisor import Gate

Command: TypeAlias = Sequence[Arg]
Answers: TypeAlias = list[Reply | HoldfastError]
# More than almost every reply, and less than what malloc maps anew for each call.
RECEIVE_BYTES = 64 * 1024
GLANCE = 0.01
MOST_IDLE = 64
# A connection that answered so lately is used again without a look, as for the save after a load:
# one that was closed since is found out as one that is closed after the look.
FRESH_SECONDS = 0.0003
# Nothing to read, or no room to write; `ssl` has its own errors for that, also while it digests a
# session ticket.
_NOTHING = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
# A Redis that has to wait for this very processor is let on to it.
_give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))


class SyncConversation:
    """One blocking connection; one thread at a time.

    Args:
        stream: the connection, handed over by the driver.
        generation: the gate's count of outages when it was opened; a later outage makes it stale.
        answers_by: by when, on ``time.monotonic()``, a new connection has to have answered.

    Attributes:
        used: when it answered last, by ``time.monotonic()``.
    """

    def __init__(self, stream: SyncStream, generation: int = 0, answers_by: float = 0.0) -> None:
        self.generation = generation
        self.used = 0.0
        self._stream = stream
        # Blocking only while it has to wait: one with a timeout asks the system before each call
        # whether there is anything, and each change of the timeout asks it too.
        self._socket = stream.socket
        self._socket.setblocking(False)
        self._reader = new_reader()
        # Under gevent a look would have every other greenlet of the thread wait for it.
        self._looks = not type(stream.socket).__module__.startswith("gevent")
        self._spin = Spin()
        self._glances = 0
        self._owed = 0
        self._whole = True
        self._answers_by = answers_by

    @classmethod
    def open(cls, target: Target, timeout: float, generation: int = 0) -> SyncConversation:
        """Connect, each step of it (connect, AUTH, SELECT) within *timeout* seconds.

        Raises:
            RedisUnavailable: it could not be opened.
        """
        stream = connect_sync(target, timeout)
        return cls(stream, generation, time.monotonic() + timeout)

    def canaries(self, key: str) -> list[str]:
        """The keys to write so that every server has been tried: here there is one."""
        return [key]

    def stale(self) -> bool:
        """Whether the server has closed it, has spoken while nobody asked, or owes for too long."""
        try:
            early = self._socket.recv(RECEIVE_BYTES)
        except _NOTHING:
            return bool(self._owed) and not self.may_answer_yet()
        except OSError:
            return True
        if early and self._owed:
            self._reader.feed(early)
            return False
        return True

    def call(self, commands: Sequence[Command], deadline: float) -> Answers:
        """Send *commands* in one write and return their answers, errors in place.

        Raises:
            RedisUnavailable: not all were answered by *deadline*. The connection is of no more use,
                unless it `may_answer_yet`.
        """
        self._glances = 0
        try:
            if self._owed:
                self._replies(deadline)
            self._owed, self._whole = len(commands), False
            self._send(b"".join(map(pack, map(tuple, commands))), deadline)
            self._whole = True
            answers = self._replies(deadline)
        except hiredis.HiredisError:
            raise RedisUnavailable("protocol", "it does not speak its protocol") from None
        except OSError as error:
            raise lost(error) from None
        return answers

    def may_answer_yet(self) -> bool:
        """Whether it is so new that what it owes is no reason to begin another connection.

        What had waited for the connect was due too early, and would be again.
        """
        return self._whole and time.monotonic() < self._answers_by

    def _send(self, data: bytes, deadline: float) -> None:
        try:
            sent = self._socket.send(data)
        except _NOTHING:
            sent = 0
        if sent < len(data):
            with self._patient(_left(deadline)):
                self._socket.sendall(memoryview(data)[sent:])

    def _replies(self, deadline: float) -> Answers:
        answers: Answers = []
        while self._owed:
            reply = self._reader.gets()
            if reply is NOT_YET:
                self._reader.feed(self._receive(deadline))
            else:
                self._owed -= 1
                answers.append(reply)
        return answers

    def _receive(self, deadline: float) -> bytes:
        data = self._caught() if self._looks and self._spin.worth() else None
        if data is None:
            data = self._awaited(deadline)
        if not data:
            raise ConnectionResetError
        return data

    def _caught(self) -> bytes | None:
        """Return what comes while a look costs less than to sleep and be woken, if anything."""
        began = looked = time.monotonic()
        until = began + self._spin.seconds
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except _NOTHING:
                now = time.monotonic()
                # Between two looks somebody else had this processor, and wants it again.
                if now > until or now - looked > CROWDED_SECONDS:
                    self._spin.missed()
                    return None
                looked = now
                _give_way()
            else:
                self._spin.caught(time.monotonic() - began)
                return data

    def _awaited(self, deadline: float) -> bytes:
        now = time.monotonic()
        if now > deadline:
            # One glance more: the reply may be there, and only this thread be late.
            self._glances += 1
            if self._glances > 1:
                raise TimeoutError
        with self._patient(max(deadline - now, GLANCE)):
            return self._socket.recv(RECEIVE_BYTES)

    @contextmanager
    def _patient(self, seconds: float) -> Iterator[None]:
        """Have the socket wait for so long meanwhile."""
        self._socket.settimeout(seconds)
        try:
            yield
        finally:
            self._socket.setblocking(False)

    def close(self) -> None:
        """Close the connection; what was asked and is not answered goes no further."""
        if self._owed:
            take_back_unsent(self._socket)
        self._stream.close()


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), GLANCE)


class SyncLane:
    """The connections of a process's threads, the last used first.

    Args:
        where: asked at each connect where Redis is.
        timeout: seconds for one operation, connect included.
        gate: the link's verdict.
        report: told of each outage seen here, with the generation it belongs to.
    """

    def __init__(
        self, where: Callable[[], Target], timeout: float, gate: Gate, report: Report
    ) -> None:
        self._where = where
        self._timeout = timeout
        self._gate = gate
        self._report = report
        self._idle: deque[SyncConversation] = deque()
        # Those that still owe a reply: taken first, so that none of them is left with a command
        # that was given up.
        self._owing: deque[SyncConversation] = deque()

    def call(self, commands: Sequence[Command], deadline: float) -> Answers:
        """Send *commands* as one batch; errors stay in place.

        Raises:
            RedisUnavailable: not all were answered by *deadline* (``time.monotonic()``).
        """
        generation = self._gate.generation
        conversation = None
        try:
            conversation = self._take(generation, deadline)
            answers = conversation.call(commands, deadline)
        except RedisUnavailable as error:
            if conversation and error.reason == "timeout" and conversation.may_answer_yet():
                self._keep(conversation, self._owing)
            else:
                if conversation is not None:
                    conversation.close()
                self._report(error, generation)
            raise
        except BaseException:
            # What a gevent timeout or a signal raises: the next would get its reply.
            if conversation is not None:
                conversation.close()
            raise
        self._keep(conversation, self._idle)
        for answer in answers:
            if isinstance(answer, RedisUnavailable):
                self._report(answer, generation)
        return answers

    def _take(self, generation: int, deadline: float) -> SyncConversation:
        while idle := self._owing or self._idle:
            try:
                conversation = idle.pop()
            except IndexError:
                continue
            fresh = time.monotonic() - conversation.used < FRESH_SECONDS
            if conversation.generation == generation and (fresh or not conversation.stale()):
                return conversation
            conversation.close()
        conversation = SyncConversation.open(self._where(), _left(deadline), generation)
        if time.monotonic() > deadline:
            # The handshake took it all. Kept, the connection serves the next command in time.
            self._keep(conversation, self._idle)
            raise RedisUnavailable("timeout", "it did not answer in time")
        return conversation

    def _keep(self, conversation: SyncConversation, idle: deque[SyncConversation]) -> None:
        conversation.used = time.monotonic()
        if len(idle) < MOST_IDLE:
            idle.append(conversation)
        else:
            conversation.close()
        if not self._gate.up:
            # The link may have been closed meanwhile, and what was idle with it.
            self.close()

    def close(self) -> None:
        """Close the idle connections; one in use is closed or kept by its thread."""
        while idle := self._owing or self._idle:
            # Another thread may have taken the last one.
            with suppress(IndexError):
                idle.pop().close()

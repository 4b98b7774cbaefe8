"""Claiming, keeping and stopping runs in Redis: three scripts, asked by loops and by threads.

Each is one atomic step on the run's meta key. What they answer is read here; what follows from it
is the publisher's.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, cast

from holdfast.errors import CorruptData, RedisReplyError, RedisUnavailable
from holdfast.link import Script
from holdfast.streams.hold import STOP_WAITS, Claim, Hold, StopAnswer
from holdfast.streams.stores import replies
from holdfast.streams.stores.keeper import Keeper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.link import Link, Reply
    from holdfast.streams.stores.replies import Keys

AT_ONCE = 100
RENEWALS = 3
"""How often a lease is renewed in its time: two may be lost."""
SHORTEST = 0.02
"""Seconds, at the least, between two renewals: a shorter lease is not worth a busy thread."""
LOOK = 10.0
"""Seconds within which a run is looked at though it holds no lease that lapses."""
SILENT = 60.0
"""Seconds, beyond its lease, for which the events of a held run are there though none is added.

In them it can still be told as lost where its publisher has died.
"""
SETTLED = 3.0
"""Seconds, at the least, for which Redis must be back before a lease is judged.

Another process may find Redis up that much later than this one: the hold-down ends with a probe,
and probes are a second apart.
"""

_STOP_WAITS_MS = int(STOP_WAITS * 1000)


class RedisHolds:
    """Who publishes which run, as Redis keeps it.

    Args:
        link: the supervised link.
        keys: the names that a run has in Redis.
        lease: seconds after which a run is lost whose holder says nothing; 0: never.
        kept: milliseconds for which what is known of a run is kept.
    """

    def __init__(self, link: Link, keys: Callable[[str], Keys], *, lease: float, kept: int) -> None:
        self._link = link
        self._keys = keys
        self._lease = lease
        self._lease_ms = int(lease * 1000)
        self._silent = int((lease + SILENT) * 1000)
        self._kept = kept
        self._claim = Script.load("stream_claim")
        self._attend = Script.load("stream_attend")
        self._stop = Script.load("stream_stop")
        interval = max(lease / RENEWALS, SHORTEST) if lease else LOOK
        self._keeper = Keeper(link, self._attend_all, lambda run: keys(run).stop, interval)

    def __repr__(self) -> str:
        return f"<RedisHolds {len(self._keeper)} runs>"

    def may_judge(self, run_id: str) -> bool:
        """Whether a lease of *run_id* that has lapsed may be taken for a process that died.

        Not while Redis has just come back: its holder could not renew it. Nor by the process that
        holds it, which may have been asleep with all its threads.
        """
        if not (self._lease and self._link.up) or self._keeper.holds(self._keys(run_id).stop):
            return False
        return time.time() - self._link.status.since >= max(self._lease, SETTLED)

    async def claim(self, hold: Hold, *, owner: str | None, start: bool) -> Claim:
        keys, args = self._claim_call(hold, owner, start=start)
        try:
            return _claimed(hold, await self._link.run(self._claim, keys, args))
        except RedisReplyError as error:
            raise replies.as_corrupt(hold.run_id, error) from error

    def claim_sync(self, hold: Hold, *, owner: str | None, start: bool) -> Claim:
        keys, args = self._claim_call(hold, owner, start=start)
        try:
            return _claimed(hold, self._link.run_sync(self._claim, keys, args))
        except RedisReplyError as error:
            raise replies.as_corrupt(hold.run_id, error) from error

    def attend(self, hold: Hold) -> None:
        self._keys(hold.run_id)
        self._link.start()
        self._keeper.add(hold)

    def leave(self, hold: Hold) -> None:
        self._keeper.discard(hold)

    async def request_stop(self, run_id: str) -> StopAnswer:
        keys = self._keys(run_id)
        try:
            answer = await self._link.run(
                self._stop, [keys.stream, keys.meta], [keys.stop, _STOP_WAITS_MS]
            )
        except RedisReplyError as error:
            raise replies.as_corrupt(run_id, error) from error
        return cast("StopAnswer", _text(answer))

    def _claim_call(
        self, hold: Hold, owner: str | None, *, start: bool
    ) -> tuple[list[str], list[Any]]:
        keys = self._keys(hold.run_id)
        how = "start" if start else "enter"
        args: list[Any] = [hold.name, self._lease_ms, how, secrets.token_hex(8)]
        args += (owner or "", self._kept, _STOP_WAITS_MS, keys.bell)
        return [keys.stream, keys.meta], args

    def _attend_all(self, holds: Sequence[Hold]) -> None:
        """In the keeper's thread."""
        for start in range(0, len(holds), AT_ONCE):
            some = holds[start : start + AT_ONCE]
            calls = [self._attend_call(hold) for hold in some]
            try:
                answers = self._link.pipeline_sync(
                    [self._attend.evalsha(keys, args) for keys, args in calls]
                )
                for hold, call, answer in zip(some, calls, answers, strict=True):
                    self._attended(hold, call, answer)
            except RedisUnavailable:
                return  # all are attended to when it is back

    def _attend_call(self, hold: Hold) -> tuple[list[str], list[Any]]:
        keys = self._keys(hold.run_id)
        args: list[Any] = [hold.name, self._lease_ms, hold.life or "", self._silent, self._kept]
        return [keys.stream, keys.meta], args

    def _attended(self, hold: Hold, call: tuple[list[str], list[Any]], answer: Any) -> None:
        if isinstance(answer, RedisReplyError) and answer.code == "NOSCRIPT":
            try:
                answer = self._link.run_sync(self._attend, *call)
            except RedisReplyError as error:
                answer = error
        # A run that cannot be read is told to its publisher, and is no business of the others.
        if isinstance(answer, list):
            _, life, stopping = answer
            hold.learn(_text(life) or None, stopping=stopping == 1)


def _claimed(hold: Hold, reply: Reply) -> Claim:
    try:
        status, life, stopping, owner = cast("list[Any]", reply)
        claim = Claim(cast("Any", _text(status)), _text(life) or None, _text(owner) or None)
    except (TypeError, ValueError) as error:
        raise CorruptData(f"what is kept about the run {hold.run_id!r}: {error}") from error
    if claim.status == "mine":
        hold.learn(claim.life, stopping=stopping == 1)
    return claim


def _text(raw: Any) -> str:
    return bytes(raw).decode()

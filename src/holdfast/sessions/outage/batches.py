"""Many scripts in one round trip, in a thread: how a recovery tells Redis of many sessions.

What they say, and what follows from a reply, is the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError, RedisReplyError
from holdfast.sessions.stores.calls import unsettled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from holdfast.link import Recovery, Reply
    from holdfast.sessions.stores.calls import Call

# Of one round trip: REDIS_TIMEOUT is the deadline for all that it carries.
_MOST_GROUPS = 50
_MOST_BYTES = 256 * 1024


def run_each(recovery: Recovery, calls: Iterable[Call]) -> list[Reply | RedisReplyError]:
    """Run scripts, many in one round trip, and return what came of each. See :func:`run_groups`."""
    return list(run_groups(recovery, [(each,) for each in calls]))


def run_groups(
    recovery: Recovery, groups: Sequence[Sequence[Call]]
) -> Iterator[Reply | RedisReplyError]:
    """Run groups of scripts, many in one round trip, and yield what came of each group.

    That is the reply of its last script, or of the first that failed or cannot be done yet. A group
    may run twice: what it does has to come to the same then.

    Raises:
        RedisUnavailable: Redis is gone.
    """
    for part in _parts(groups):
        commands = [each.script.evalsha(each.keys, each.args) for group in part for each in group]
        answers = iter(recovery.pipeline(commands))
        for group in part:
            replies = [_refusal_in_place(next(answers)) for _ in group]
            if any(isinstance(r, RedisReplyError) and r.code == "NOSCRIPT" for r in replies):
                # A Redis that was restarted knows no script yet. All of the group are run again,
                # because they have to be carried out in their order.
                replies = [_reply(recovery, each) for each in group]
            refused = (r for r in replies if isinstance(r, RedisReplyError) or unsettled(r))
            yield next(refused, replies[-1])


def _parts(groups: Sequence[Sequence[Call]]) -> Iterator[list[Sequence[Call]]]:
    part: list[Sequence[Call]] = []
    size = 0
    for group in groups:
        weight = sum(len(arg) for each in group for arg in each.args if isinstance(arg, bytes))
        if part and (len(part) >= _MOST_GROUPS or size + weight > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(group)
        size += weight
    if part:
        yield part


def _reply(recovery: Recovery, call: Call) -> Reply | RedisReplyError:
    try:
        return recovery.run(*call)
    except RedisReplyError as error:
        return error


def _refusal_in_place(answer: Reply | HoldfastError) -> Reply | RedisReplyError:
    if isinstance(answer, HoldfastError) and not isinstance(answer, RedisReplyError):
        raise answer
    return answer

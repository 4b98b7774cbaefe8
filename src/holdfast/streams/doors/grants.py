"""Which of several credentials opens which of several runs.

A request for many runs may bring one token for each. Every token is judged as if it had come
alone, by the policy that judges a request for one run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.requests import HTTPConnection

from holdfast.errors import RedisUnavailable
from holdfast.streams.access import FORBIDDEN, UNKNOWN, Verdict, bearer_of, says_otherwise

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_TOKENS = 100

Ask = Callable[[HTTPConnection, str], Awaitable[Verdict]]
"""Judges one request for one run; raises :class:`RedisUnavailable` where nobody can say."""


class Grants:
    """The credentials of one connection.

    Args:
        connection: the request; its ``Authorization`` and every ``?token=`` count.
        ask: judges whether a request that carries at most one token may read a run.
    """

    def __init__(self, connection: HTTPConnection, ask: Ask) -> None:
        self.connection = connection
        self._ask = ask
        tokens = dict.fromkeys(connection.query_params.getlist("token"))
        self.too_many = len(tokens) > MAX_TOKENS
        bearer = bearer_of(connection)
        # As it came, with each token of the query in place of its Authorization, and with none.
        self._presented: list[tuple[str | None, HTTPConnection]] = []
        if bearer is not None:
            self._presented.append((bearer, _with(connection, None, header=True)))
        for token in tokens if not self.too_many else ():
            self._presented.append((token, _with(connection, token, header=False)))
        self._presented.append((None, _with(connection, None, header=bearer is None)))

    async def verdict(self, run_id: str, token: str | None = None) -> Verdict:
        """Judge whether *run_id* may be read: by *token*, else by anything the connection brought.

        Raises:
            RedisUnavailable: nothing opens it, and of something it cannot be said now.
        """
        unknown: RedisUnavailable | None = None
        found = UNKNOWN
        for connection in self._worth_asking(run_id, token):
            try:
                verdict = await self._ask(connection, run_id)
            except RedisUnavailable as error:
                unknown = error
                continue
            if verdict.status == 200:
                return verdict
            found = worse(found, verdict)
        if unknown is not None:
            raise unknown
        return found

    async def refusal(self, run_id: str, verdict: Verdict) -> Verdict:
        """Return what is answered where nothing opens any run: *verdict*, or 403.

        As for a single run a token that was signed for others is told from none.
        """
        for token, connection in self._presented:
            if verdict.status == FORBIDDEN.status:
                break
            if token is not None and says_otherwise(token, run_id):
                with suppress(RedisUnavailable):
                    verdict = worse(verdict, await self._ask(connection, run_id))
        return verdict

    def _worth_asking(self, run_id: str, token: str | None) -> Iterable[HTTPConnection]:
        """Every way to present the request but with tokens that say they are for other runs."""
        if token is not None:
            return [_with(self.connection, token, header=False)]
        return (
            connection
            for each, connection in self._presented
            if each is None or not says_otherwise(each, run_id)
        )


def worse(one: Verdict, other: Verdict) -> Verdict:
    """Return what two refusals are together: 403 if either is, an attempt if either is one."""
    worst = max(one, other, key=lambda each: each.status)
    forged, waits = one.forged or other.forged, one.waits or other.waits
    return replace(worst, forged=forged, waits=waits)


def _with(connection: HTTPConnection, token: str | None, *, header: bool) -> HTTPConnection:
    """The same request with one *token* in its query or none; what it loaded is shared.

    Args:
        header: whether it keeps its ``Authorization``.
    """
    scope, query = connection.scope, connection.query_params.multi_items()
    kept = [(name, value) for name, value in query if name != "token"]
    if token is not None:
        kept.append(("token", token))
    headers = [each for each in scope["headers"] if header or each[0] != b"authorization"]
    return HTTPConnection({**scope, "headers": headers, "query_string": urlencode(kept).encode()})

"""What the doors of the sub-app share: the store, who may do what, and how many read already.

No address and no answer is known here; a door asks, and says it in its protocol.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from holdfast.errors import RedisUnavailable
from holdfast.health import readiness
from holdfast.startup import Requirement
from holdfast.streams import problems, shutdown
from holdfast.streams.access import make_policy
from holdfast.streams.doors.attempts import Attempts
from holdfast.streams.doors.unlogged import conceal
from holdfast.streams.select import close_hubs, default_store, hub_of, hubs_of, stop_hubs

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from holdfast.runtime import Runtime
    from holdfast.settings import Settings
    from holdfast.streams.access import Action, Verdict
    from holdfast.streams.doors.opening import Permit
    from holdfast.streams.fanout.hub import Hub
    from holdfast.streams.store import EventStore

log = logging.getLogger("holdfast.streams")


class Service:
    """One configured sub-app.

    Args:
        settings: the configuration. Default: the environment.
        store: where the events are. Default: the process's own store.

    Raises:
        ConfigurationError: a variable cannot work.
    """

    def __init__(self, settings: Settings | None, store: EventStore | None) -> None:
        from holdfast.runtime import runtime

        self.runtime: Runtime = runtime(settings)
        self.settings = self.runtime.settings
        self.store = store or default_store(self.runtime)
        self.policy = make_policy(self.settings, self.store)
        self.required = Requirement(self.runtime)
        self._closed = False
        self._attempts = Attempts()
        self.runtime.on_close(lambda: close_hubs(self.store))

    def hub(self) -> Hub:
        """The hub of the running event loop, told of signals."""
        hub = hub_of(self.store)
        hub.stopping |= self._closed
        if self.settings.stream_handle_signals:
            shutdown.watch(hub)
        return hub

    def close(self) -> None:
        """Have every stream of every event loop end, and every later one at once."""
        self._closed = True
        stop_hubs(self.store)

    def is_full(self, hub: Hub, more: int = 1) -> bool:
        """Whether *more* readers would be too many, by ``HOLDFAST_STREAM_MAX_SUBSCRIBERS``."""
        return len(hub.subscribers) + more > self.settings.stream_max_subscribers

    async def may_serve(self) -> bool:
        """Whether Redis has answered once, where that is required."""
        return self.required.met or await self.required.holds()

    def conceal(self, connection: HTTPConnection) -> None:
        """Keep the tokens of an address out of the server's log, if they are ours."""
        # A callable may know tokens of its own, and make of the scope whatever finds them.
        if ":" not in self.settings.stream_access:
            conceal(connection)

    def permit(self, connection: HTTPConnection, run_id: str, action: Action) -> Permit:
        """Return what asks whether *connection* may do *action*, now and again later."""
        return lambda: self.policy(connection, run_id, action)

    def denied(self, verdict: Verdict, connection: HTTPConnection) -> problems.Problem:
        """Return what to answer; what to change is for whoever reads the log."""
        if verdict.forged:
            client = connection.client
            seconds = self._attempts.failed(client.host if client else None)
            if seconds:
                # Not logged: whoever tries tokens must not fill the disk either.
                return replace(problems.TOO_MANY_ATTEMPTS, retry_after=seconds)
        access = self.settings.stream_access
        log.info(
            "a request was refused (%d): HOLDFAST_STREAM_ACCESS is %r%s",
            verdict.status,
            access,
            "; it takes stream_token(run_id), whose actions= name what is more than reading"
            if access == "token"
            else "",
        )
        return problems.BY_VERDICT[verdict.status]

    async def readiness(self) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of ``/readyz``."""
        link = self.runtime.link
        if link is not None:
            await link.ready()
        status, body = readiness(
            link.status if link else None,
            required=self.settings.redis_required,
            stopping=self._closed or shutdown.stopping(),
        )
        # Counts alone: whoever may ask this may not learn which runs there are.
        hubs = list(hubs_of(self.store).values())
        streams = {
            "runs": sum(hub.runs for hub in hubs),
            "subscribers": sum(len(hub.subscribers) for hub in hubs),
        }
        return status, {**body, "streams": streams}


async def ask(permit: Permit) -> Verdict | None:
    """Return the verdict, ``None`` while nobody can say."""
    try:
        return await permit()
    except RedisUnavailable:
        return None

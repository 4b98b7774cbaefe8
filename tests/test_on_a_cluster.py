"""Sessions, streams and logins on a Redis Cluster, as the user that docs/production gives it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.link.conftest import until
from tests.oauth.door import Browser as OAuthBrowser
from tests.oauth.door import Door
from tests.sessions.browser import Browser, app_of
from tests.support.store_suites import SessionsOnRedis, StreamsOnRedis
from tests.test_smallest_user import PASSWORD, rule_of_the_page, settings_of

from holdfast import OAuthStateStore, RunPublisher, SessionIndex, SessionMiddleware, Settings
from holdfast.link import Link
from holdfast.runtime import runtime
from holdfast.streams.store import Known
from holdfast.streams.stores.redis import RedisEventStore
from holdfast.testing import redis_cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdfast import Session

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).resolve().parents[1] / "docs" / "production" / "redis-user.md"


def more_on_a_cluster() -> list[str]:
    """What the page adds to the user's rule for a Cluster."""
    found = re.search(r"On a Cluster[^`]*`([^`]+)`", PAGE.read_text())
    assert found
    return found[1].split()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_cluster() as cluster:
        for server in cluster.masters:
            server.execute(*rule_of_the_page(), *more_on_a_cluster())
        yield cluster.url.replace("://", f"://holdfast:{PASSWORD}@")
        for server in cluster.masters:
            assert server.execute("ACL", "LOG") == [], "holdfast was refused something"


@pytest.fixture
def store_settings(url: str) -> Callable[..., Settings]:
    return partial(settings_of, url)


@pytest.mark.slow
class TestSessions(SessionsOnRedis): ...


@pytest.mark.slow
class TestStreams(StreamsOnRedis): ...


async def test_logins_their_index_and_what_ends_them(url: str) -> None:
    settings = settings_of(url)
    logins = [
        Browser(SessionMiddleware(app_of(lambda s: s.update(user_id=1)), settings=settings))
        for _ in range(5)
    ]
    for login in logins:
        await login.get()
        await login.get()
    index = SessionIndex(settings=settings)
    assert len(await index.list(1)) == 5
    assert await index.revoke_all(1) == 5
    assert await index.list(1) == []


async def test_oauth_states(url: str) -> None:
    store, browser = OAuthStateStore(settings=settings_of(url)), OAuthBrowser()
    door = Door(store)
    request = browser.request(door)
    state = await store.issue(request, {"next": "/"})
    browser.keep(store.cookie_headers(request))
    assert await store.consume(browser.request(door), state) == {"next": "/"}
    assert await store.consume(browser.request(door), state) is None


async def test_runs_of_every_node_are_audited(url: str) -> None:
    settings = settings_of(url)
    link = Link(settings)
    store = RedisEventStore(link, settings)
    known: list[Known] = []
    for n in range(12):
        run_id = f"audit-{n}"
        await store.add(run_id, "t", n)
        info = await store.describe(run_id)
        known.append(Known(run_id, info.last, info.n, info.life, False))
    assert await store.changed(known) == []
    await store.add("audit-3", "t", "more")
    await store.add("audit-8", "t", "more")
    assert sorted(await store.changed(known)) == ["audit-3", "audit-8"]
    await link.aclose()


@pytest.mark.slow
async def test_a_lost_master_logs_nobody_out_and_loses_no_event() -> None:
    with redis_cluster(replicas=1) as cluster:
        settings = settings_of(cluster.url, session_on_outage="local").override(redis_timeout=1)
        link = runtime(settings).link
        assert link is not None
        enter, look, leave = (
            SessionMiddleware(app_of(handle), settings=settings) for handle in (_in, _who, _out)
        )
        users = [Browser(enter) for _ in range(12)]
        for user in users:
            await user.get()
            user.app = look
            assert (await user.get()).body == b"1"
        publishers = [RunPublisher(f"failover-{n}", settings=settings) for n in range(6)]
        for publisher in publishers:
            await publisher.emit("t", "before")
        await until(cluster.in_step, 15)
        cluster.masters[0].kill()
        await until(lambda: not link.up, 30)
        for user in users[:4]:
            user.app = leave
            await user.get()
            user.app = look
        assert {(await user.get()).body for user in users[4:]} == {b"1"}
        for publisher in publishers:
            await publisher.emit("t", "meanwhile")
        await until(lambda: link.up, 60)
        assert {(await user.get()).body for user in users[4:]} == {b"1"}
        assert {(await user.get()).body for user in users[:4]} == {b"None"}
        store = RedisEventStore(link, settings)
        for n, publisher in enumerate(publishers):
            await publisher.emit("t", "after")
            events = await store.get_events(f"failover-{n}", "0", None, 10)
            assert [event.data for event in events] == ["before", "meanwhile", "after"]


def _in(session: Session) -> None:
    session["user_id"] = 1


def _who(session: Session) -> object:
    return session.get("user_id")


def _out(session: Session) -> None:
    session.invalidate()

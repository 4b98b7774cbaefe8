"""Wrong tokens are counted by address; whoever has a good one never notices."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from holdfast import EventStreamApp, RunPublisher, Settings, stream_token
from holdfast.streams.doors.attempts import MAX_ADDRESSES, MAX_FAILURES, WINDOW, Attempts
from holdfast.streams.stores.memory import MemoryEventStore

KEY, PUBLISH = "a-key-of-sixteen-characters-or-more", "a-publish-token-of-a-worker"
EVENTS = "/runs/r/events"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_failures_beyond_the_bound_wait_for_the_window() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    assert [attempts.failed("1.2.3.4") for _ in range(MAX_FAILURES)] == [0] * MAX_FAILURES
    assert attempts.failed("1.2.3.4") == WINDOW
    clock.now += WINDOW - 0.5
    assert attempts.failed("1.2.3.4") == 1
    assert attempts.failed("1.2.3.5") == 0
    clock.now += 0.5
    assert [attempts.failed("1.2.3.4") for _ in range(MAX_FAILURES)] == [0] * MAX_FAILURES
    assert attempts.failed("1.2.3.4") == WINDOW


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.5", False),
        ("1.2.3.4", "1.2.3.5", False),
        (None, "", True),
        ("unix:", "unix:", True),
    ],
)
def test_an_address_of_ipv6_is_counted_by_its_network(
    one: str | None, other: str, same: bool
) -> None:
    attempts = Attempts(Clock())
    for _ in range(MAX_FAILURES):
        attempts.failed(one)
    assert (attempts.failed(other) > 0) is same


def test_memory_is_bounded_and_the_busiest_stay_counted() -> None:
    attempts = Attempts(Clock())
    for number in range(2 * MAX_ADDRESSES):
        attempts.failed(f"10.0.{number // 256}.{number % 256}")
        if number % 100 == 0:
            attempts.failed("1.2.3.4")
    assert repr(attempts) == f"<Attempts of {MAX_ADDRESSES} addresses>"
    assert attempts.failed("1.2.3.4") > 0


def client_of(store: MemoryEventStore, **more: Any) -> TestClient:
    given = {"secret_key": KEY, "stream_publish_token": PUBLISH, **more}
    return TestClient(EventStreamApp(settings=Settings(**given), store=store))


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_whoever_tries_tokens_is_told_to_wait_and_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryEventStore()
    await RunPublisher("r", store=store).emit("t", 1)
    caplog.set_level(logging.DEBUG)
    good = stream_token("r", settings=Settings(secret_key=KEY))
    http = client_of(store)
    for number in range(MAX_FAILURES):
        assert http.get(EVENTS, headers=bearer(f"guess-{number}")).status_code == 401
    logged = len(caplog.records)
    answer = http.get(EVENTS, headers=bearer("another guess"))
    assert (answer.status_code, answer.json()["code"]) == (429, "TOO_MANY_ATTEMPTS")
    assert 0 < int(answer.headers["retry-after"]) <= WINDOW
    assert http.post(EVENTS, headers=bearer("another guess")).status_code == 429
    assert http.post("/runs/r/stop?token=guess").status_code == 429
    ours = [each for each in caplog.records[logged:] if each.name.startswith("holdfast")]
    assert not ours, "whoever tries tokens must not fill the log"
    assert http.get(EVENTS, headers=bearer(good)).status_code == 200
    assert http.post(EVENTS, json={"type": "t"}, headers=bearer(PUBLISH)).status_code == 201
    with http.websocket_connect(f"/runs/r/events/ws?token={good}") as socket:
        assert socket.receive_json()["kind"] == "event"
    with pytest.raises(WebSocketDisconnect), http.websocket_connect("/runs/r/events/ws?token=no"):
        pass


async def test_what_was_good_once_or_is_missing_is_no_guess() -> None:
    store = MemoryEventStore()
    settings = Settings(secret_key=KEY)
    old = stream_token("r", ttl=1e-9, settings=settings)
    other = stream_token("other", settings=settings)
    http = client_of(store)
    for headers, status in ((bearer(old), 401), (bearer(other), 403), ({}, 401)):
        for _ in range(MAX_FAILURES + 2):
            assert http.get(EVENTS, headers=headers).status_code == status


async def test_the_tokens_of_many_runs_are_counted_too() -> None:
    http = client_of(MemoryEventStore())
    path = "/events/stream?run=r&wait=0&token=guess"
    found = [http.get(path).status_code for _ in range(MAX_FAILURES + 1)]
    assert found == [401] * MAX_FAILURES + [429]


@pytest.mark.parametrize("access", ["open", "session"])
async def test_in_every_mode_wrong_publish_tokens_are_counted(access: str) -> None:
    http = client_of(MemoryEventStore(), stream_access=access)
    found = [
        http.post(EVENTS, json={"type": "t"}, headers=bearer("guess")).status_code
        for _ in range(MAX_FAILURES + 1)
    ]
    assert found == [401] * MAX_FAILURES + [429]

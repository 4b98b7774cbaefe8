"""holdfast.js in a real Chromium, against a real uvicorn: what it survives, and what it says."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from holdfast import Settings, stream_token
from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from tests.conftest import Serve
    from tests.support.process import ServerProcess

pytestmark = [pytest.mark.browser, pytest.mark.slow]

APP = "tests.interop.client_page:app"
KEY = "a-key-of-sixteen-characters-or-more"
OPEN = {"HOLDFAST_STREAM_ACCESS": "open", "HOLDFAST_STREAM_HEARTBEAT": "0.5"}
TOKENS = {**OPEN, "HOLDFAST_STREAM_ACCESS": "token", "HOLDFAST_SECRET_KEY": KEY}
TRANSPORTS = ["sse", "ws"]
MANY = 120


class Page:
    """The page in one tab; what it saw is read from it."""

    def __init__(self, driver: Chrome, url: str, query: str = "") -> None:
        self.driver = driver
        self.url = url
        driver.get(f"{url}/page{query}")
        self.wait("window.ready")

    def follow(self, run: str, options: str = "", *, query: str = "") -> None:
        """Follow *run* with the options that the JavaScript *options* spells."""
        self.follow_address(f"streams/runs/{run}/events/stream{query}", options)

    def follow_address(self, address: str, options: str = "") -> None:
        self.script(f"open_run({json.dumps(address)}, {{ {options} }})")

    def refresh(self) -> None:
        self.driver.refresh()
        self.wait("window.ready")

    def script(self, source: str, *args: object) -> Any:
        return self.driver.execute_script(source, *args)

    def value(self, expression: str) -> Any:
        return self.script(f"return {expression}")

    def wait(self, expression: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not self.script(f"return Boolean({expression})"):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {expression}; {self.told()}")
            time.sleep(0.02)

    def wait_for_state(self, state: str) -> None:
        self.wait(f"run.state === '{state}'")

    def told(self) -> str:
        log = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        seen = "JSON.stringify({state: window.run?.state, states: seen.states, n: numbers()})"
        return f"{self.value(seen)} {log}"

    @property
    def numbers(self) -> list[int]:
        return [int(number) for number in self.value("numbers()")]

    def expect_each_once(self, count: int) -> None:
        self.wait_for_state("ended")
        assert self.numbers == list(range(1, count + 1))
        assert self.value("seen.events.at(-1).type") == "workflow_complete"
        assert self.value("seen.ends") == 1

    def expect_no_complaint(self) -> None:
        log = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        assert not [entry["message"] for entry in log if "Uncaught" in entry["message"]]


@pytest.fixture
def server(serve: Serve) -> ServerProcess:
    return serve(APP, env=OPEN)


@pytest.fixture
def guarded(serve: Serve) -> ServerProcess:
    return serve(APP, env=TOKENS)


def post(server: ServerProcess, path: str) -> Any:
    return httpx.post(f"{server.url}{path}", trust_env=False).raise_for_status().json()


def with_transport(transport: str, *more: str) -> str:
    return ", ".join([f"transport: '{transport}'", *more])


# --- from the first event to the end --------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_history_and_live_events_come_once_in_order_and_then_the_end(
    browser: Chrome, server: ServerProcess, transport: str
) -> None:
    ids = post(server, "/emit/r?count=5")
    page = Page(browser, server.url)
    page.follow("r", with_transport(transport))
    page.wait("seen.events.length === 5")
    assert page.value("run.lastId") == ids[-1]
    page.wait_for_state("live")
    post(server, "/emit/r?first=6&count=5&end=1")
    page.expect_each_once(10)
    first = page.value("seen.events[0]")
    assert first == {
        "kind": "event",
        "run_id": "r",
        "id": ids[0],
        "type": "t",
        "data": {"n": 1},
        "created_at": first["created_at"],
    }
    assert page.value("seen.states") == ["connecting", "live", "ended"]
    page.expect_no_complaint()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_reader_past_the_end_is_told_the_end_and_no_event(
    browser: Chrome, server: ServerProcess, transport: str
) -> None:
    ids = post(server, "/emit/r?count=3&end=1")
    page = Page(browser, server.url)
    page.follow("r", with_transport(transport, f"lastId: '{ids[-1]}'"))
    page.wait_for_state("ended")
    assert page.value("[seen.events.length, seen.ends]") == [0, 1]


def test_it_works_as_small_as_a_build_makes_it(browser: Chrome, server: ServerProcess) -> None:
    page = Page(browser, server.url, "?small")
    with FaultProxy.threaded("127.0.0.1", server.port) as proxy:
        for transport in TRANSPORTS:
            run = f"small-{transport}"
            post(server, f"/start/{run}?count={MANY}&pause=0.01")
            page = Page(browser, f"http://127.0.0.1:{proxy.port}", "?small")
            page.follow(run, with_transport(transport, "...keeping"))
            page.wait("seen.events.length > 10")
            proxy.cut()
            page.wait("seen.events.length > 20")
            page.refresh()
            page.follow(run, with_transport(transport, "...keeping"))
            page.expect_each_once(MANY)
            assert page.value("seen.restored") > 20


# --- what happens to a page -----------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_network_cut_for_three_seconds_costs_no_event_and_doubles_none(
    browser: Chrome, server: ServerProcess, transport: str
) -> None:
    post(server, f"/start/r?count={MANY}&pause=0.05")
    with FaultProxy.threaded("127.0.0.1", server.port) as proxy:
        page = Page(browser, f"http://127.0.0.1:{proxy.port}")
        page.follow("r", with_transport(transport))
        page.wait("seen.events.length > 10")
        proxy.refuse()
        proxy.cut()
        page.wait_for_state("waiting")
        time.sleep(3)  # the length of the cut is what is tested
        assert page.value("run.state") in {"waiting", "connecting"}
        proxy.heal()
        page.expect_each_once(MANY)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_refresh_goes_on_where_the_page_was_and_shows_what_it_had(
    browser: Chrome, server: ServerProcess, transport: str
) -> None:
    post(server, f"/start/r?count={MANY}&pause=0.03")
    page = Page(browser, server.url)
    page.follow("r", with_transport(transport, "...keeping"))
    for seen in (10, 40):
        page.wait(f"seen.events.length > {seen}")
        page.refresh()
        page.follow("r", with_transport(transport, "...keeping"))
        page.wait("seen.restored")
        assert page.value("seen.restored") > seen
    page.expect_each_once(MANY)
    page.refresh()
    page.follow("r", with_transport(transport, "...keeping"))
    page.expect_each_once(MANY)
    assert page.value("seen.restored") == MANY + 1
    page.expect_no_complaint()


def test_without_remember_a_refresh_gets_the_whole_run_again(
    browser: Chrome, server: ServerProcess
) -> None:
    post(server, "/emit/r?count=5")
    page = Page(browser, server.url)
    for _ in range(2):
        page.follow("r")
        page.wait("seen.events.length === 5")
        page.refresh()


def test_the_position_alone_can_be_remembered_and_is_beaten_by_a_given_one(
    browser: Chrome, server: ServerProcess
) -> None:
    post(server, "/emit/r?count=5")
    page = Page(browser, server.url)
    page.follow("r", "remember: true")
    page.wait("seen.events.length === 5")
    page.refresh()
    post(server, "/emit/r?first=6&count=1")
    page.follow("r", "remember: true")
    page.wait("seen.events.length === 1")
    assert page.numbers == [6]
    page.refresh()
    page.follow("r", "remember: true, lastId: ''")
    page.wait("seen.events.length === 6")


def test_storage_that_is_forbidden_or_broken_costs_nothing_but_the_memory(
    browser: Chrome, server: ServerProcess
) -> None:
    post(server, "/emit/r?count=3&end=1")
    page = Page(browser, server.url)
    page.script("sessionStorage.setItem('holdfast:/streams/runs/r/events/stream', '{')")
    page.script("Storage.prototype.setItem = () => { throw new DOMException('full') }")
    page.follow("r", "...keeping")
    page.expect_each_once(3)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_connection_that_died_without_a_word_is_given_up(
    browser: Chrome, server: ServerProcess, transport: str
) -> None:
    post(server, f"/start/r?count={MANY}&pause=0.05")
    with FaultProxy.threaded("127.0.0.1", server.port) as proxy:
        page = Page(browser, f"http://127.0.0.1:{proxy.port}")
        page.follow("r", with_transport(transport, "silence: 1500"))
        page.wait("seen.events.length > 10")
        proxy.blackhole()
        page.wait_for_state("connecting")
        proxy.heal()
        page.expect_each_once(MANY)


def test_a_silent_run_is_no_dead_connection(browser: Chrome, server: ServerProcess) -> None:
    post(server, "/emit/r?count=1")
    page = Page(browser, server.url)
    page.follow("r", "silence: 1500")
    page.wait_for_state("live")
    time.sleep(4)  # several times the silence that would be too long: heartbeats count
    assert page.value("seen.states") == ["connecting", "live"]


@pytest.mark.parametrize("sign", ["online", "visibilitychange"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_page_that_comes_back_does_not_wait_for_its_turn(
    browser: Chrome, server: ServerProcess, transport: str, sign: str
) -> None:
    post(server, "/emit/r?count=3")
    with FaultProxy.threaded("127.0.0.1", server.port) as proxy:
        page = Page(browser, f"http://127.0.0.1:{proxy.port}")
        page.script("Math.random = () => 1")
        page.follow("r", with_transport(transport, "maxDelay: 600000"))
        page.wait("seen.events.length === 3")
        proxy.refuse()
        proxy.cut()
        # Half a second, one, two, four: after the third failure there is time.
        page.wait("seen.states.filter((state) => state === 'waiting').length === 4")
        proxy.heal()
        begun = time.monotonic()
        target = "window" if sign == "online" else "document"
        page.script(f"{target}.dispatchEvent(new Event('{sign}'))")
        page.wait_for_state("live")
        assert time.monotonic() - begun < 3
        post(server, "/emit/r?first=4&count=1&end=1")
        page.expect_each_once(4)


def test_a_page_that_went_online_leaves_its_old_connection_at_once(
    browser: Chrome, server: ServerProcess
) -> None:
    post(server, "/emit/r?count=3")
    page = Page(browser, server.url)
    page.follow("r", "silence: 600000")
    page.wait("seen.events.length === 3")
    page.script("window.dispatchEvent(new Event('online'))")
    page.wait("seen.states.filter((state) => state === 'live').length === 2")
    post(server, "/emit/r?first=4&count=1&end=1")
    page.expect_each_once(4)
    assert "waiting" not in page.value("seen.states")
    assert server.log().count("GET /streams/runs/r/events/stream") == 2


def test_a_server_that_restarts_is_come_back_to(browser: Chrome, serve: Serve) -> None:
    server = serve(APP, env=OPEN)
    post(server, "/emit/r?count=3")
    page = Page(browser, server.url)
    page.follow("r")
    page.wait("seen.events.length === 3")
    server.stop()
    page.wait_for_state("waiting")
    server.start()
    # Its memory is empty, so the run begins a next life, and the page is told.
    post(server, "/emit/r?count=2&end=1")
    page.wait_for_state("ended")
    assert page.value("seen.resets.length") == 1
    assert page.numbers == [1, 2]


# --- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_expired_token_is_renewed_without_losing_an_event(
    browser: Chrome, guarded: ServerProcess, transport: str
) -> None:
    post(guarded, f"/start/r?count={MANY}&pause=0.05")
    page = Page(browser, guarded.url)
    page.follow("r", with_transport(transport, "token: token_of('r', 1.5)"))
    page.expect_each_once(MANY)
    asked = page.value("seen.asked")
    assert asked[0] is False
    assert len(asked) >= 2
    assert all(asked[1:]), "who caches tokens must hear that this one is no longer good"


def test_a_token_travels_in_a_header_and_in_no_address(
    browser: Chrome, guarded: ServerProcess
) -> None:
    post(guarded, "/emit/r?count=3&end=1")
    token = stream_token("r", settings=Settings(secret_key=KEY))
    page = Page(browser, guarded.url)
    page.follow("r", query=f"?token={token}")
    page.expect_each_once(3)
    assert token not in guarded.log()
    assert "events/stream?envelope=1" in guarded.log()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_token_that_is_refused_twice_ends_in_failed(
    browser: Chrome, guarded: ServerProcess, transport: str
) -> None:
    post(guarded, "/emit/r?count=1")
    page = Page(browser, guarded.url)
    page.follow("r", with_transport(transport, "token: token_of('another', 60)"))
    page.wait_for_state("failed")
    assert page.value("seen.asked") == [False, True]
    assert page.value("seen.states.at(-1)[1].status") == 403


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_without_a_token_it_fails_and_does_not_try_again(
    browser: Chrome, guarded: ServerProcess, transport: str
) -> None:
    page = Page(browser, guarded.url)
    page.follow("r", with_transport(transport))
    page.wait_for_state("failed")
    assert page.value("seen.states.at(-1)[1].status") == 401


def test_a_token_that_cannot_be_had_now_is_asked_for_again(
    browser: Chrome, guarded: ServerProcess
) -> None:
    post(guarded, "/emit/r?count=2&end=1")
    page = Page(browser, guarded.url)
    page.script("window.tries = 0")
    late = "++tries < 3 ? Promise.reject(new Error('away')) : token_of('r', 60)({})"
    page.follow("r", f"token: () => {late}")
    page.expect_each_once(2)
    assert page.value("tries") == 3


# --- what is missing, refused or foreign ----------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_is_gone_is_told_and_the_rest_follows(
    browser: Chrome, serve: Serve, transport: str
) -> None:
    server = serve(APP, env={**OPEN, "HOLDFAST_STREAM_MAXLEN": "10"})
    ids = post(server, "/emit/r?count=30")
    page = Page(browser, server.url)
    page.follow("r", with_transport(transport, f"lastId: '{ids[0]}'"))
    page.wait("seen.events.length === 10")
    assert page.value("seen.gaps") == [
        {"kind": "gap", "run_id": "r", "requested": ids[0], "earliest": ids[20]}
    ]
    assert page.numbers == list(range(21, 31))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_run_begun_anew_is_shown_from_its_start(
    browser: Chrome, server: ServerProcess, transport: str
) -> None:
    post(server, "/emit/r?count=5")
    page = Page(browser, server.url)
    page.follow("r", with_transport(transport, "...keeping"))
    page.wait("seen.events.length === 5")
    post(server, "/delete/r")
    page.wait("seen.resets.length === 1")
    assert page.value("run.lastId") == ""
    post(server, "/emit/r?count=2&end=1")
    page.expect_each_once(2)
    assert page.value("seen.resets.length") == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_run_that_nobody_starts_ends_in_failed(
    browser: Chrome, serve: Serve, transport: str
) -> None:
    server = serve(APP, env={**OPEN, "HOLDFAST_STREAM_WAIT": "0"})
    page = Page(browser, server.url)
    page.follow("nobody", with_transport(transport))
    page.wait_for_state("failed")
    refusal = page.value("seen.states.at(-1)[1]")
    assert (refusal["status"], refusal["code"]) == (404, "RUN_NOT_FOUND")


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("run", ["nobodys", "none"])
def test_a_run_that_is_not_the_sessions_ends_in_failed(
    browser: Chrome, serve: Serve, transport: str, run: str
) -> None:
    own = {"HOLDFAST_STREAM_ACCESS": "session", "HOLDFAST_STREAM_WAIT": "0.5"}
    server = serve("tests.interop.client_page:with_sessions", env={**TOKENS, **own})
    post(server, "/emit/nobodys?count=1")
    browser.get(f"{server.url}/visit")
    page = Page(browser, server.url)
    page.follow(run, with_transport(transport))
    page.wait_for_state("failed")
    assert page.value("seen.states.at(-1)[1].status") == 403
    assert page.numbers == []


def test_a_session_that_is_given_a_new_cookie_goes_on_waiting(
    browser: Chrome, serve: Serve
) -> None:
    own = {"HOLDFAST_STREAM_ACCESS": "session", "HOLDFAST_STREAM_WAIT": "60"}
    server = serve("tests.interop.client_page:with_sessions", env={**TOKENS, **own})
    browser.get(f"{server.url}/visit")
    page = Page(browser, server.url)
    page.follow("none", with_transport("ws"))
    page.wait_for_state("live")
    # As a login in another tab.
    page.script("fetch('/visit?anew=1')")
    page.wait("seen.states.filter((each) => each === 'live').length === 2")
    assert "failed" not in str(page.value("seen.states"))


def test_a_page_in_place_of_a_stream_ends_in_failed(browser: Chrome, server: ServerProcess) -> None:
    page = Page(browser, server.url)
    page.follow_address("wrong")
    page.wait_for_state("failed")
    assert page.value("seen.states.at(-1)[1].code") == "NOT_A_STREAM"


def test_a_server_in_trouble_is_come_back_to_when_it_said(
    browser: Chrome, server: ServerProcess
) -> None:
    page = Page(browser, server.url)
    begun = time.monotonic()
    page.follow_address("troubled")
    page.wait_for_state("ended")
    assert time.monotonic() - begun > 2
    assert server.log().count("GET /troubled") == 4
    assert page.value("seen.events.length") == 3


def test_an_event_stream_of_somebody_else_is_followed_too(
    browser: Chrome, server: ServerProcess
) -> None:
    page = Page(browser, server.url)
    page.follow_address("foreign")
    page.wait_for_state("ended")
    assert page.value("seen.events") == [
        {"kind": "event", "id": "7", "type": "message", "data": "one\ntwo"},
        {"kind": "event", "id": "7", "type": "t", "data": {"n": 1}},
        {"kind": "event", "id": "9", "type": "workflow_complete", "data": None},
    ]


# --- leaving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("how", ["controller.abort()", "run.close()"])
def test_leaving_ends_the_connection_and_every_try(
    browser: Chrome, server: ServerProcess, transport: str, how: str
) -> None:
    post(server, "/emit/r?count=2")
    with FaultProxy.threaded("127.0.0.1", server.port) as proxy:
        page = Page(browser, f"http://127.0.0.1:{proxy.port}")
        page.script("window.controller = new AbortController()")
        page.follow("r", with_transport(transport, "signal: controller.signal"))
        page.wait("seen.events.length === 2")
        page.script(how)
        assert page.value("seen.states") == ["connecting", "live", "closed"]
        accepted = proxy.accepted
        proxy.cut()
        post(server, "/emit/r?first=3&count=1")
        page.script("window.dispatchEvent(new Event('online'))")
        time.sleep(1)  # longer than the first delay of a client that still tried
        assert (page.numbers, proxy.accepted) == ([1, 2], accepted)
        page.expect_no_complaint()


def test_a_signal_that_is_aborted_already_connects_nothing(
    browser: Chrome, server: ServerProcess
) -> None:
    page = Page(browser, server.url)
    page.follow("r", "signal: AbortSignal.abort()")
    assert page.value("run.state") == "closed"
    assert "/runs/r/" not in server.log()


def test_leaving_in_the_middle_of_what_arrived_hands_over_no_more(
    browser: Chrome, server: ServerProcess
) -> None:
    post(server, "/emit/r?count=20&end=1")
    page = Page(browser, server.url)
    page.follow("r", "onEvent: (e) => { seen.events.push(e); if (e.data.n === 3) run.close(); }")
    page.wait_for_state("closed")
    assert page.numbers == [1, 2, 3]
    assert page.value("seen.ends") == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("state", ["connecting", "live"])
def test_leaving_in_the_callback_of_a_state_is_the_last_of_it(
    browser: Chrome, server: ServerProcess, transport: str, state: str
) -> None:
    post(server, "/emit/r?count=20&end=1")
    page = Page(browser, server.url)
    leave = f"onState: (s) => {{ seen.states.push(s); if (s === '{state}') run.close(); }}"
    page.follow("r", with_transport(transport, leave))
    page.wait_for_state("closed")
    page.follow("r", "onState: () => {}")  # what could still come has come by its end
    page.wait_for_state("ended")
    assert page.value("seen.states.at(-1)") == "closed"
    assert page.value("seen.states.length") == (2 if state == "connecting" else 3)
    assert len(page.numbers) == 20
    page.expect_no_complaint()


def test_a_callback_that_throws_loses_nothing(browser: Chrome, server: ServerProcess) -> None:
    post(server, "/emit/r?count=3&end=1")
    page = Page(browser, server.url)
    page.script("window.thrown = 0; window.addEventListener('error', () => { thrown += 1; })")
    page.follow("r", "onEvent: (e) => { seen.events.push(e); throw new Error('mine'); }")
    page.expect_each_once(3)
    assert page.value("thrown") == 4


# --- many runs over one connection ----------------------------------------------------------------


@pytest.mark.parametrize("transport", [*TRANSPORTS, "EventSource"])
def test_many_runs_over_a_network_that_is_cut_come_once_and_in_order(
    browser: Chrome, server: ServerProcess, transport: str
) -> None:
    runs = [f"{transport}-{n}" for n in range(3)]
    with FaultProxy.threaded("127.0.0.1", server.port) as proxy:
        page = Page(browser, f"http://127.0.0.1:{proxy.port}")
        for run in runs:
            post(server, f"/start/{run}?count={MANY}&pause=0.02")
        if transport == "EventSource":
            query = "&".join(f"run={run}" for run in runs)
            page.script(f"browsers_own('/streams/events/stream?envelope=1&{query}')")
        else:
            page.follow_address("streams/events/stream", with_transport(transport, f"runs: {runs}"))
        for cut in range(3):
            page.wait(f"numbers_of('{runs[0]}').length > {20 * (cut + 1)}")
            proxy.cut()
        page.wait("seen.run_ends.length === 3")
        for run in runs:
            assert page.value(f"numbers_of('{run}')") == list(range(1, MANY + 1))
        assert sorted(page.value("seen.run_ends")) == [[run, "end"] for run in runs]
        if transport == "EventSource":
            page.wait("source.readyState === EventSource.CLOSED")
        else:
            page.wait_for_state("ended")
            assert page.value("seen.ends") == 1
        assert proxy.accepted > 3
        page.expect_no_complaint()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_runs_are_added_and_dropped_while_others_go_on(
    browser: Chrome, server: ServerProcess, transport: str
) -> None:
    a, b, c = (f"{transport}-{name}" for name in "abc")
    page = Page(browser, server.url)
    post(server, f"/emit/{a}?count=2")
    post(server, f"/emit/{b}?count=2")
    options = with_transport(transport, f"runs: ['{a}', '{c}']")
    page.follow_address("streams/events/stream?wait=60", options)
    page.wait(f"numbers_of('{a}').length === 2")
    page.script(f"run.add('{b}')")
    page.wait(f"numbers_of('{b}').length === 2")
    page.script(f"run.drop('{a}')")
    post(server, f"/emit/{b}?first=3&count=1&end=1")
    page.wait("seen.run_ends.length === 1")
    assert page.value("seen.run_ends") == [[b, "end"]]
    post(server, f"/emit/{a}?first=3&count=1")
    page.script(f"run.add('{a}')")
    page.wait(f"numbers_of('{a}').length === 3")
    assert page.value(f"numbers_of('{a}')") == [1, 2, 3]
    assert page.value(f"numbers_of('{b}')") == [1, 2, 3]
    page.script(f"run.drop('{c}'); run.drop('{a}')")
    page.wait_for_state("closed")
    page.expect_no_complaint()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_run_too_many_is_told_and_costs_the_others_nothing(
    browser: Chrome, server: ServerProcess, transport: str
) -> None:
    page = Page(browser, server.url)
    runs = [f"run-{n}" for n in range(100)]
    many = with_transport(transport, f"runs: {json.dumps(runs)}")
    page.follow_address("streams/events/stream?wait=60", many)
    page.wait_for_state("live")
    page.script("run.add('more')")
    assert page.value("seen.run_ends") == [["more", "TOO_MANY_RUNS"]]
    post(server, "/emit/run-99?count=1&end=1")
    page.wait("seen.run_ends.length === 2")
    assert page.value("numbers_of('run-99')") == [1]
    page.script("run.add('more')")  # there is room now
    post(server, "/emit/more?count=1&end=1")
    page.wait("seen.run_ends.length === 3")
    assert page.value("[run.state, numbers_of('more')]") == ["live", [1]]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_token_that_expires_is_renewed_for_many_runs(
    browser: Chrome, guarded: ServerProcess, transport: str
) -> None:
    runs = [f"{transport}-{n}" for n in range(2)]
    page = Page(browser, guarded.url)
    for run in runs:
        post(guarded, f"/start/{run}?count={MANY}&pause=0.02")
    given = f"token: token_of('{transport}-', 1.2, '&prefix=1')"
    page.follow_address(
        "streams/events/stream",
        with_transport(transport, f"runs: {[*runs, 'other']}", given),
    )
    page.wait_for_state("ended")
    for run in runs:
        assert page.value(f"numbers_of('{run}')") == list(range(1, MANY + 1))
    assert ["other", "UNAUTHORIZED"] in page.value("seen.run_ends")
    assert page.value("seen.asked")[0] is False
    page.expect_no_complaint()


def test_a_run_is_stopped_with_the_token_in_a_header(
    browser: Chrome, guarded: ServerProcess
) -> None:
    page = Page(browser, guarded.url)
    for run in ("s-1", "s-2", "s-3"):
        post(guarded, f"/start/{run}?count=5000&pause=0.02")
    token = "token: token_of('s-', 60, '&prefix=1')"
    page.follow("s-1", token)
    page.wait("numbers().length > 2")
    page.script("window.asked = run.stop()")
    page.wait_for_state("ended")
    assert page.value("seen.events.at(-1).type") == "run_stopped"
    page.follow_address("streams/events/stream", f"{token}, runs: ['s-2', 's-3']")
    page.wait("numbers_of('s-3').length > 2")
    page.script("run.stop('s-2')")
    page.wait("seen.run_ends.length === 1")
    page.script("run.stop('s-2').then(() => run.stop('x')).catch((why) => { seen.why = why; })")
    page.wait("seen.why")
    assert page.value("seen.why.status") == 403
    assert page.value("run.state") == "live"
    assert "token=" not in guarded.log()

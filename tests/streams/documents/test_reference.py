"""What the sub-app says of itself is what it does: documents, frames held to them, and the page."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, get_args

import jsonschema_rs
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from holdfast import EventStreamApp, RunPublisher, Settings, stream_token
from holdfast.streams import problems
from holdfast.streams.cursor import Cursor
from holdfast.streams.documents import asyncapi, openapi, schemas
from holdfast.streams.documents.docs_page import page
from holdfast.streams.doors.paths import Operation, find
from holdfast.streams.doors.told import failed
from holdfast.streams.event import EventId
from holdfast.streams.frames import control_event_source, control_websocket
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver import Chrome
    from tests.conftest import Serve

KEY = "a-key-of-sixteen-characters-or-more"


def app_of(store: MemoryEventStore, **more: Any) -> EventStreamApp:
    given = {"secret_key": KEY, "stream_access": "open", **more}
    return EventStreamApp(settings=Settings(**given), store=store)


@pytest.fixture
def http() -> Iterator[TestClient]:
    store = MemoryEventStore()
    with TestClient(app_of(store)) as client:
        assert client.portal is not None
        for run in "ab":
            publisher = RunPublisher(run, store=store)
            client.portal.call(publisher.emit, "t", {"text": "Zoë \n 🪸"})
            client.portal.call(publisher.node_output, "n", None)
            client.portal.call(publisher.workflow_complete)
        yield client


def holds(schema: dict[str, Any], value: Any) -> bool:
    jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(value)
    return True


def frame_holds(text: str | bytes) -> str:
    frame = json.loads(text)
    assert holds(schemas.FRAMES[frame["kind"]], frame)
    return str(frame["kind"])


# -- the documents


def test_every_problem_is_documented_where_it_can_be_met() -> None:
    codes = set(re.findall(r'"enum": \["?([^\]]*)\]', json.dumps(openapi.document("token"))))
    documented = {code.strip(' "') for group in codes for code in group.split(",")}
    known = {each.code for each in vars(problems).values() if isinstance(each, problems.Problem)}
    # The last one is met at addresses of WebSockets alone, which OpenAPI does not know.
    elsewhere = {"NOT_FOUND", "METHOD_NOT_ALLOWED", "RUN_NOT_YOURS", "NO_WEBSOCKET"}
    assert known - documented == elsewhere
    assert {"NOT_FOUND", "METHOD_NOT_ALLOWED"} <= set(re.findall(r"`(\w+)`", openapi._ABOUT))


def test_every_address_is_documented_with_its_methods() -> None:
    described = openapi.document("token")["paths"]
    found: set[Operation] = set()
    for path, item in described.items():
        raw = path.replace("{run_id}", "r").encode()
        target = find({"path": raw.decode(), "raw_path": raw})
        assert target is not None
        found.add(target.operation)
        methods = {name.upper() for name in item if name != "parameters"}
        assert methods == {*target.methods} - {"HEAD", "OPTIONS"}
    sockets = {"websocket", "many_websocket"}
    assert found == set(get_args(Operation)) - sockets


@pytest.mark.parametrize("document", [openapi.document("session"), asyncapi.document()])
def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        place: Any = document
        for name in reference.split("/"):
            place = place[name]


@pytest.mark.parametrize(
    ("access", "action", "opened"),
    [
        ("token", "read", ["token", "queryToken"]),
        ("token", "publish", ["token", "queryToken", "publishToken"]),
        ("token", "stop", ["token", "queryToken"]),
        ("open", "read", []),
        ("open", "stop", ["token", "queryToken"]),
        ("session", "read", ["token", "queryToken", "session"]),
        ("session", "publish", ["token", "queryToken", "publishToken"]),
        ("session", "stop", ["token", "queryToken", "session"]),
    ],
)
def test_what_opens_what_follows_the_variable(access: str, action: str, opened: list[str]) -> None:
    path, method = {
        "read": ("/runs/{run_id}/events", "get"),
        "publish": ("/runs/{run_id}/events", "post"),
        "stop": ("/runs/{run_id}/stop", "post"),
    }[action]
    security = openapi.document(access)["paths"][path][method]["security"]
    assert [name for either in security for name in either] == opened


def test_the_cookie_has_the_name_it_was_given() -> None:
    app = app_of(MemoryEventStore(), stream_access="session", session_cookie="shop")
    schemes = TestClient(app).get("/openapi.json").json()["components"]["securitySchemes"]
    assert (schemes["session"]["in"], schemes["session"]["name"]) == ("cookie", "shop")


def test_where_a_function_decides_nothing_is_promised() -> None:
    paths = openapi.document("shop.access:authorize")["paths"]
    assert paths["/runs/{run_id}/events"]["post"]["security"] == [{}]


@pytest.mark.parametrize("name", ["openapi.json", "asyncapi.json", "docs"])
def test_a_document_is_asked_about_again_and_costs_a_304(http: TestClient, name: str) -> None:
    answer = http.get(f"/{name}")
    assert answer.status_code == 200
    again = http.get(f"/{name}", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert http.head(f"/{name}").status_code == 200


@pytest.mark.parametrize(
    ("mount", "root_path", "told"),
    [("/a/b", "", "/a/b"), ("/a b", "", "/a%20b"), ("/a", "/proxied", "/proxied/a"), ("", "", "/")],
)
def test_the_documents_say_where_the_app_is_and_are_open_to_everybody(
    mount: str, root_path: str, told: str
) -> None:
    app = Starlette(routes=[Mount(mount, app_of(MemoryEventStore(), stream_access="token"))])
    client = TestClient(app, root_path=root_path)
    document = client.get(f"{root_path}{mount}/openapi.json").json()
    assert document["openapi"].startswith("3.1.")
    assert [server["url"] for server in document["servers"]] == [told, "."]
    assert client.get(f"{root_path}{mount}/asyncapi.json").json()["asyncapi"] == "3.0.0"


# -- what is really sent


def test_pages_and_writes_are_what_is_described(http: TestClient) -> None:
    assert holds(schemas.PAGE, http.get("/runs/a/events").json())
    token = stream_token("new", actions=["publish"], settings=Settings(secret_key=KEY))
    event = {"type": "t", "data": 1}
    assert holds(schemas.NEW_EVENT, event)
    headers = {"authorization": f"Bearer {token}"}
    answer = http.post("/runs/new/events", json=[event], headers=headers)
    assert holds(schemas.WRITTEN, answer.json())
    problem = http.post("/runs/new/events", json=[{}], headers=headers).json()
    assert holds(schemas.PROBLEM, problem)
    assert problem["detail"]
    for path in ("/livez", "/readyz"):
        assert holds(schemas.HEALTH, http.get(path).json())


def test_frames_of_a_run_are_what_is_described(http: TestClient) -> None:
    with http.websocket_connect("/runs/a/events/ws") as socket:
        kinds = [frame_holds(socket.receive_text()) for _ in range(4)]
    assert kinds == ["event"] * 3 + ["end"]
    envelopes = http.get("/runs/a/events/stream?envelope=1").text
    frames = re.findall(r"^data: (.*)$", envelopes, re.MULTILINE)
    assert [frame_holds(text) for text in frames] == ["event"] * 3
    with http.websocket_connect("/runs/absent/events/ws?wait=0") as socket:
        assert frame_holds(socket.receive_text()) == "error"


def test_frames_of_many_runs_are_what_is_described(http: TestClient) -> None:
    text = http.get("/events/stream?run=a&run=b&run=absent&wait=0").text
    frames = re.findall(r"^data: (.*)$", text, re.MULTILINE)
    kinds = [frame_holds(frame) for frame in frames]
    assert sorted(kinds) == ["end"] * 2 + ["error"] + ["event"] * 6
    with http.websocket_connect("/events/ws") as socket:
        for command in ({"kind": "add", "run_id": "a", "last_id": "0"}, {"kind": "nonsense"}):
            socket.send_json(command)
        kinds = [frame_holds(socket.receive_text()) for _ in range(5)]
    assert {"added", "event"} <= set(kinds)
    assert holds(schemas.COMMANDS["add"], {"kind": "add", "run_id": "a", "token": "x"})
    assert holds(schemas.COMMANDS["drop"], {"kind": "drop", "run_id": "a"})


def test_what_is_seldom_sent_is_described_too() -> None:
    for kind in ("gap", "reset"):
        sent = control_websocket(kind, "r", requested="5-0~p1.2", earliest=None)
        assert frame_holds(sent) == kind
    denied = control_event_source("denied", "r").decode().partition("data: ")[2]
    assert frame_holds(denied) == "denied"
    for told in (failed(None, "INVALID_FRAME"), failed("r", "FORBIDDEN", late=True)):
        frame_holds(told.json())


@pytest.mark.parametrize(
    ("position", "good"),
    [
        ("1795258887617-0", True),
        (str(Cursor(EventId(5, 0), {"p1": 3, "p2": 10**17})), True),
        ("5", False),
        ("05-0", False),
        ("5-0~", False),
        ("5-0~p.0", False),
        ("$", False),
    ],
)
def test_an_id_is_described_as_it_is_read(position: str, good: bool) -> None:
    assert jsonschema_rs.Draft202012Validator(schemas.EVENT_ID).is_valid(position) is good


# -- the page


def test_the_page_shows_everything_and_escapes_what_it_shows() -> None:
    document = openapi.document("token")
    document["info"]["description"] = "<script>alert(1)</script> & `code`"
    html = page(document, asyncapi.document())
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; <code>code</code>" in html
    for path in document["paths"]:
        assert f"<code>{path}</code>" in html
    for kind in (*schemas.FRAMES, *schemas.COMMANDS):
        assert f'id="frame-{kind}"' in html
    assert "INVALID_LIMIT" in html


def test_the_page_fetches_nothing_and_runs_nothing(http: TestClient) -> None:
    answer = http.get("/docs")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert not re.findall(r"""(?:src|href)=["'](?!#|openapi\.json|asyncapi\.json)""", answer.text)
    assert "url(" not in answer.text
    assert "@import" not in answer.text


@pytest.mark.browser
def test_a_browser_shows_the_page_in_its_style(browser: Chrome, serve: Serve) -> None:
    browser.get(serve("tests.streams.served:app").url + "/streams/docs")
    assert browser.title == "Event streams"
    width = "return getComputedStyle(document.body).maxWidth"
    assert browser.execute_script(width) != "none", "the policy refused the page's own style"
    summaries = browser.find_elements("css selector", "summary")
    assert len(summaries) > 15
    opened = "return document.querySelectorAll('details[open]').length"
    summaries[0].click()
    assert browser.execute_script(opened) == 1
    told = browser.get_log("browser")  # type: ignore[no-untyped-call]
    assert [each for each in told if "favicon" not in each["message"]] == []

"""What a server can write into its log of an address that held a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from starlette.requests import HTTPConnection
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from holdfast import Settings, stream_token
from holdfast.streams.doors.service import Service
from holdfast.streams.doors.unlogged import conceal
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from tests.conftest import Serve
    from tests.support.process import ServerProcess

KEY = "a-key-of-sixteen-characters-or-more"


def connection(query: bytes) -> HTTPConnection:
    return HTTPConnection({"type": "http", "headers": [], "query_string": query})


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (b"token=abc", b"token=-"),
        (b"run=a&token=abc&run=b&token=d%26e=f", b"run=a&token=-&run=b&token=-"),
        (b"%74oken=abc&last_id=1-0%7Ea.1", b"token=-&last_id=1-0%7Ea.1"),
        (b"tokens=1&my_token=2&x=token=3", b"tokens=1&my_token=2&x=token=3"),
        (b"", b""),
    ],
)
def test_tokens_alone_are_taken_out_of_what_others_see(query: bytes, left: bytes) -> None:
    asked = connection(query)
    before = connection(query).query_params.multi_items()
    conceal(asked)
    assert asked.scope["query_string"] == left
    assert asked.query_params.multi_items() == before


def test_the_query_is_left_to_a_callable_as_it_came() -> None:
    settings = Settings(secret_key=KEY, stream_access="holdfast:session_access")
    asked = connection(b"token=theirs")
    Service(settings, MemoryEventStore()).conceal(asked)
    assert asked.scope["query_string"] == b"token=theirs"


def test_no_token_is_in_the_log_of_the_server(serve: Serve) -> None:
    server = serve("tests.streams.served:app", env={"HOLDFAST_SECRET_KEY": KEY})
    httpx.post(f"{server.url}/emit/r?end=1").raise_for_status()
    tokens = [stream_token(run, settings=Settings(secret_key=KEY)) for run in ("r", "other")]
    assert asked_for(server, *tokens) == [200, 200, 200, 403, 404]
    assert heard_of(server, *tokens) == ["event", "event", "end"] * 2 + [403]
    log = server.log()
    assert log.count("token=-") == 9
    assert not [token for token in tokens if token[:8] in log]


def asked_for(server: ServerProcess, good: str, other: str) -> list[int]:
    """Ask over HTTP with tokens in the address."""
    queries = [
        f"runs/r/events?token={good}",
        f"runs/r/events/stream?token={good}&last_id=0",
        f"events/stream?run=r&token={other}&token={good}",
        f"runs/r/events/stream?token={other}",
        f"nowhere?token={good}",
    ]
    with httpx.Client(trust_env=False, base_url=f"{server.url}/streams/") as http:
        return [http.get(query).status_code for query in queries]


def heard_of(server: ServerProcess, good: str, other: str) -> list[str | int]:
    """Read over WebSockets to their end, or until the handshake is refused."""
    base = f"{server.url}/streams/".replace("http", "ws")
    heard: list[str | int] = []
    for query in ["runs/r/events/ws?", "events/ws?run=r&"]:
        with connect(f"{base}{query}token={good}", proxy=None) as socket:
            heard += [str(frame).split('"')[3] for frame in socket]
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{base}runs/r/events/ws?token={other}", proxy=None)
    return [*heard, refused.value.response.status_code]

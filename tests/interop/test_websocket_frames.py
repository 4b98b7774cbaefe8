"""RFC 6455, case by case, by raw frames on a real server with each of its implementations.

What answers a frame is the server's; ours is that nothing a client says breaks or leaks anything:
every test ends with no reader left, no complaint in the log, and the next reader served.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest
from tests.interop.raw_websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawWebSocket,
    close,
    frame,
)
from tests.streams.clients import raw_request
from tests.support.process import ServerProcess, uvicorn_command

if TYPE_CHECKING:
    from collections.abc import Iterator

IMPLEMENTATIONS = [
    "websockets-sansio",  # what uvicorn takes by itself
    pytest.param("wsproto", marks=pytest.mark.slow),
    pytest.param("websockets", marks=pytest.mark.slow),
]
ENV = {
    "HOLDFAST_STREAM_ACCESS": "open",
    "HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more",
}
LIMIT = 1000
PROTOCOL_ERROR, BAD_TEXT, TOO_BIG = 1002, 1007, 1009


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def shared(
    implementation: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    args = ["--ws", implementation, "--ws-max-size", str(LIMIT)]
    log = tmp_path_factory.mktemp("served") / "log"
    made = ServerProcess(uvicorn_command("tests.streams.served:app", args), log, ENV)
    made.start()
    yield made
    made.close()


@pytest.fixture
def server(shared: ServerProcess) -> Iterator[ServerProcess]:
    """The server, and after the test what must be true of it."""
    yield shared
    deadline = time.monotonic() + 5
    while (now := state(shared))["subscribers"] or now["rings"]:
        assert time.monotonic() < deadline, f"{now['subscribers']} readers are left behind"
        time.sleep(0.02)
    # A server may complain of the client; nothing may come from us or through us.
    assert "Exception in ASGI" not in shared.log()
    assert "/holdfast/" not in shared.log()


def state(server: ServerProcess) -> dict[str, int]:
    _, answer = raw_request(server.port, "/state")
    found: dict[str, int] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


def emit(server: ServerProcess, run: str, query: str) -> None:
    assert raw_request(server.port, f"/emit/{run}?{query}", method="POST")[0] == 200


@pytest.fixture
def run(server: ServerProcess) -> str:
    """A run of three events that goes on."""
    made = os.urandom(6).hex()
    emit(server, made, "count=3")
    return made


def opened(server: ServerProcess, run: str, *, many: bool = False) -> RawWebSocket:
    """Return a socket that has had its three events and now waits for more."""
    made = RawWebSocket(server.port, f"/streams/events/ws?run={run}" if many else path_of(run))
    assert made.status == 101, made.answer
    for n in (1, 2, 3):
        assert json.loads(made.next_of(TEXT) or b"")["data"] == {"n": n}
    return made


def path_of(run: str) -> str:
    return f"/streams/runs/{run}/events/ws"


def assert_still_served(server: ServerProcess, run: str, socket: RawWebSocket) -> None:
    """A client that did nothing wrong gets the next event, and may go in peace."""
    emit(server, run, "first=4")
    assert json.loads(socket.next_of(TEXT) or b"")["data"] == {"n": 4}
    socket.send(close(1000))
    assert socket.close_code() == 1000
    assert socket.at_end()


# -- what a client may do: sections 5.4, 5.5 and 5.6

PERMITTED = {
    "text": frame(TEXT, b"hello"),
    "empty text": frame(TEXT),
    "binary": frame(BINARY, bytes(range(100))),
    "text of all lengths of UTF-8": frame(TEXT, "aé€😀".encode()),
    "text in three fragments": frame(TEXT, b"hel", fin=False)
    + frame(CONTINUATION, b"l", fin=False)
    + frame(CONTINUATION, b"o"),
    "fragments that part a character": frame(TEXT, b"\xe2\x82", fin=False)
    + frame(CONTINUATION, b"\xac"),
    "empty fragments": frame(TEXT, fin=False)
    + frame(CONTINUATION, fin=False)
    + frame(CONTINUATION),
    "a pong between fragments": frame(TEXT, b"hel", fin=False)
    + frame(PONG, b"x")
    + frame(CONTINUATION, b"lo"),
    "a pong that nobody asked for": frame(PONG, b"unasked"),
    "a hundred messages at once": frame(TEXT, b"again") * 100,
    "a message of the greatest length": frame(BINARY, bytes(LIMIT)),
    "no JSON": frame(TEXT, b"{"),
    "frames of ours": frame(TEXT, b'{"kind":"end","run_id":"r"}'),
}


@pytest.mark.parametrize("name", PERMITTED)
def test_what_a_client_may_say_changes_nothing(server: ServerProcess, run: str, name: str) -> None:
    with opened(server, run) as socket:
        socket.send(PERMITTED[name])
        socket.send(frame(PING, b"still there?"))
        assert socket.next_of(PONG) == b"still there?"
        assert_still_served(server, run, socket)


def test_frame_that_comes_byte_by_byte_is_one_frame(server: ServerProcess, run: str) -> None:
    with opened(server, run) as socket:
        for byte in frame(TEXT, b"slow") + frame(PING, b"slowly"):
            socket.send(bytes([byte]))
        assert socket.next_of(PONG) == b"slowly"
        assert_still_served(server, run, socket)


@pytest.mark.parametrize("payload", [b"", b"x", bytes(125)], ids=["0", "1", "125"])
def test_ping_is_answered_with_its_own_payload(
    server: ServerProcess, run: str, payload: bytes
) -> None:
    with opened(server, run) as socket:
        socket.send(frame(PING, payload))
        assert socket.next_of(PONG) == payload
        assert_still_served(server, run, socket)


def test_ping_between_fragments_is_answered_before_the_message_is_whole(
    server: ServerProcess, run: str
) -> None:
    with opened(server, run) as socket:
        socket.send(frame(TEXT, b"hel", fin=False) + frame(PING, b"between"))
        assert socket.next_of(PONG) == b"between"
        socket.send(frame(CONTINUATION, b"lo"))
        assert_still_served(server, run, socket)


# -- the socket of many runs, which listens to what its client says


def test_command_in_fragments_is_one_command(server: ServerProcess, run: str) -> None:
    with RawWebSocket(server.port, "/streams/events/ws") as socket:
        text = json.dumps({"kind": "add", "run_id": run}).encode()
        socket.send(frame(TEXT, text[:5], fin=False) + frame(PING, b"between"))
        assert socket.next_of(PONG) == b"between"
        socket.send(frame(CONTINUATION, text[5:9], fin=False) + frame(CONTINUATION, text[9:]))
        frames = [json.loads(socket.next_of(TEXT) or b"") for _ in range(4)]
    assert [each["kind"] for each in frames] == ["added", "event", "event", "event"]


SENSELESS = {
    "binary": frame(BINARY, b'{"kind":"add","run_id":"x"}'),
    "no JSON": frame(TEXT, b"{"),
    "nothing": frame(TEXT),
    "no object": frame(TEXT, b"[]"),
    "a null character": frame(TEXT, b'{"kind":"add","run_id":"\x00"}'),
    "a number too long to read": frame(TEXT, b"9" * LIMIT),
    "deep nesting": frame(TEXT, b"[" * LIMIT),
}


@pytest.mark.parametrize("name", SENSELESS)
def test_senseless_command_is_answered_with_an_error(
    server: ServerProcess, run: str, name: str
) -> None:
    with opened(server, run, many=True) as socket:
        socket.send(SENSELESS[name])
        assert json.loads(socket.next_of(TEXT) or b"")["kind"] == "error"
        assert_still_served(server, run, socket)


def test_flood_of_commands_ends_with_its_own_connection(server: ServerProcess, run: str) -> None:
    with opened(server, run) as other:
        with opened(server, run, many=True) as socket:
            socket.send(frame(TEXT, b"{") * 500)
            assert socket.close_code() == 1008
        assert_still_served(server, run, other)


# -- what it may not: sections 5.1 to 5.5, 7.4.1, 8.1

FORBIDDEN = {
    "an unmasked frame": (frame(TEXT, b"hello", masked=False), PROTOCOL_ERROR),
    "the first reserved bit": (frame(TEXT, b"hello", rsv=4), PROTOCOL_ERROR),
    "the second reserved bit": (frame(TEXT, b"hello", rsv=2), PROTOCOL_ERROR),
    "the third reserved bit": (frame(TEXT, b"hello", rsv=1), PROTOCOL_ERROR),
    "a reserved opcode": (frame(0x3, b"hello"), PROTOCOL_ERROR),
    "a reserved control opcode": (frame(0xB, b"hello"), PROTOCOL_ERROR),
    "a fragmented ping": (frame(PING, b"x", fin=False), PROTOCOL_ERROR),
    "a ping of 126 bytes": (frame(PING, bytes(126)), PROTOCOL_ERROR),
    "a close frame of 126 bytes": (close(1000, bytes(124)), PROTOCOL_ERROR),
    "a continuation of nothing": (frame(CONTINUATION, b"lo"), PROTOCOL_ERROR),
    "a message inside a message": (
        frame(TEXT, b"hel", fin=False) + frame(TEXT, b"lo"),
        PROTOCOL_ERROR,
    ),
    "a length of 2^63": (frame(BINARY, length=1 << 63), TOO_BIG),
    "text that is no UTF-8": (frame(TEXT, b"\xff"), BAD_TEXT),
    "text that ends in a character": (frame(TEXT, b"\xe2\x82"), BAD_TEXT),
    "half a surrogate pair": (frame(TEXT, b"\xed\xa0\x80"), BAD_TEXT),
    "an overlong character": (frame(TEXT, b"\xc0\xaf"), BAD_TEXT),
    "fragments that are no UTF-8 together": (
        frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"A"),
        BAD_TEXT,
    ),
    "a message that is too big": (frame(BINARY, bytes(LIMIT + 1)), TOO_BIG),
    "one that says it will be": (frame(BINARY, length=1 << 40), TOO_BIG),
    "fragments that are too big together": (
        frame(BINARY, bytes(LIMIT), fin=False) + frame(CONTINUATION, bytes(LIMIT)),
        TOO_BIG,
    ),
    "a close frame of one byte": (frame(CLOSE, b"\x03"), PROTOCOL_ERROR),
    "a reason that is no UTF-8": (close(1000, b"\xff"), BAD_TEXT),
    **{
        f"the close code {code}": (close(code), PROTOCOL_ERROR)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
}

SAYS_NO_CODE = {"wsproto"}
"""Ends the connection without a close frame, which 7.1.7 permits."""

WAITS_FOR_IT = {("wsproto", "one that says it will be")}
"""Judges a message by what has come of it."""


@pytest.mark.parametrize("name", FORBIDDEN)
@pytest.mark.parametrize("many", [False, True], ids=["one run", "many runs"])
def test_what_a_client_may_not_say_ends_its_own_connection_alone(
    server: ServerProcess, run: str, implementation: str, name: str, many: bool
) -> None:
    said, code = FORBIDDEN[name]
    with opened(server, run) as other:
        with opened(server, run, many=many) as socket:
            socket.send(said)
            if (implementation, name) not in WAITS_FOR_IT:
                told = socket.close_code()
                assert told == code or (told is None and implementation in SAYS_NO_CODE)
                assert socket.at_end()
        assert_still_served(server, run, other)


# -- the end: sections 5.5.1, 7.1, 7.4


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
)
def test_close_code_of_the_client_is_echoed(server: ServerProcess, run: str, code: int) -> None:
    with opened(server, run) as socket:
        socket.send(close(code, "bye, à bientôt".encode()))
        assert socket.close_code() == code
        assert socket.at_end()


def test_close_frame_without_a_code_is_answered(server: ServerProcess, run: str) -> None:
    with opened(server, run) as socket:
        socket.send(close(None))
        assert socket.close_code() in {1000, 1005}
        assert socket.at_end()


@pytest.mark.parametrize(
    "after",
    [frame(TEXT, b"more"), frame(PING, b"x"), close(1001), b"no frame at all" * 100],
    ids=["text", "ping", "another close", "rubbish"],
)
def test_data_after_the_close_frame_is_not_answered(
    server: ServerProcess, run: str, after: bytes
) -> None:
    with opened(server, run) as socket:
        socket.send(close(1000) + after)
        assert socket.close_code() == 1000
        assert socket.at_end()


def test_close_in_the_middle_of_a_message_is_a_close(server: ServerProcess, run: str) -> None:
    with opened(server, run) as socket:
        socket.send(frame(TEXT, b"hel", fin=False) + close(1000))
        # Permitted by 5.4; one implementation takes the message amiss that never ends.
        assert socket.close_code() in {1000, PROTOCOL_ERROR}


UNFINISHED = {
    "nothing": b"",
    "a fragment": frame(TEXT, b"hel", fin=False),
    "half a frame": frame(TEXT, b"hello")[:4],
}


@pytest.mark.parametrize("said", UNFINISHED.values(), ids=UNFINISHED)
def test_half_closed_connection_is_ended(server: ServerProcess, run: str, said: bytes) -> None:
    with opened(server, run) as socket:
        socket.send(said)
        socket.half_close()
        socket.close_code()


@pytest.mark.parametrize("said", UNFINISHED.values(), ids=UNFINISHED)
def test_connection_that_is_reset_leaves_nothing(
    server: ServerProcess, run: str, said: bytes
) -> None:
    with opened(server, run) as socket:
        socket.send(said)
        socket.reset()


def test_end_of_the_run_is_told_then_closed_with_1000(server: ServerProcess, run: str) -> None:
    with opened(server, run) as socket:
        emit(server, run, "first=4&end=1")
        texts = [socket.next_of(TEXT) or b"" for _ in range(3)]
        assert [json.loads(text)["kind"] for text in texts] == ["event", "event", "end"]
        assert socket.close_code() == 1000
        socket.send(close(1000))
        assert socket.at_end()


@pytest.mark.parametrize("many", [False, True], ids=["one run", "many runs"])
def test_client_that_answers_no_close_leaves_nothing(
    server: ServerProcess, run: str, many: bool
) -> None:
    with opened(server, run, many=many) as socket:
        emit(server, run, "first=4&end=1")
        assert socket.close_code() == 1000
        deadline = time.monotonic() + 2
        while state(server)["subscribers"]:
            assert time.monotonic() < deadline


# -- the handshake: section 4.2


def test_handshake_proves_that_it_was_read(server: ServerProcess, run: str) -> None:
    key = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of section 1.3
    with RawWebSocket(server.port, path_of(run), Sec_WebSocket_Key=key) as socket:
        assert "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in socket.answer


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_WebSocket_Version": "8"},
        {"Sec_WebSocket_Version": None},
        {"Sec_WebSocket_Key": None},
        {"Upgrade": None},
        {"Connection": "keep-alive"},
    ],
    ids=str,
)
def test_handshake_that_is_none_is_refused(
    server: ServerProcess, run: str, headers: dict[str, str | None]
) -> None:
    with RawWebSocket(server.port, path_of(run), **headers) as socket:
        assert 400 <= socket.status < 500


def test_subprotocols_and_extensions_that_nobody_knows_are_not_taken(
    server: ServerProcess, run: str
) -> None:
    offers = {"Sec_WebSocket_Protocol": "chat, mqtt", "Sec_WebSocket_Extensions": "x-unknown; a=1"}
    with RawWebSocket(server.port, path_of(run), **offers) as socket:
        assert socket.status == 101
        answer = socket.answer.lower()
        assert "sec-websocket-protocol" not in answer
        assert "x-unknown" not in answer
        assert json.loads(socket.next_of(TEXT) or b"")["kind"] == "event"

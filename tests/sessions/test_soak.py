"""The short form of the soak; ``python -m tests.sessions.soak`` is the long one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.sessions.soak import soak
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
async def test_nobody_is_logged_out_or_back_from_a_logout_and_nothing_acknowledged_is_missing(
    tmp_path: Path,
) -> None:
    outcome = await soak(sessions=500, seconds=3.0, folder=tmp_path)
    assert not outcome.wrong
    assert outcome.logouts >= 10
    assert outcome.born >= 1
    assert outcome.statuses[200] > 100


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("session=a1970b.c; path=/; Max-Age=1209600; httponly", "a1970b.c"),
        ("session=null; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; httponly", ""),
    ],
    ids=["set", "removed"],
)
async def test_a_cookie_is_gone_by_its_date_and_not_by_what_is_in_it(line: str, kept: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nSet-Cookie: {line}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, Wire(server.sockets[0].getsockname()[1]) as wire:
        assert (await wire.ask("GET", "/")).set_cookie == kept

"""A WebSocket client that may say anything: RFC 6455 frames on a raw socket, right or wrong."""

from __future__ import annotations

import base64
import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from types import TracebackType

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Frame(NamedTuple):
    """A frame as the server sent it."""

    opcode: int
    payload: bytes
    fin: bool


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: int | None = None,
    wide: bool = False,
) -> bytes:
    """Return one frame (RFC 6455 5.2).

    Args:
        rsv: the three reserved bits, as a number.
        length: what the frame says its length is, in place of the truth.
        wide: write the length in eight bytes, however short it is.
    """
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    if wide or size > 0xFFFF:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", size)
    elif size > 125:
        head += bytes([mask_bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mask_bit | size])
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[n % 4] for n, byte in enumerate(payload))


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


class RawWebSocket:
    """One connection; open it with ``with``.

    Args:
        port: of the server.
        path: what is asked for.
        headers: in place of those of a proper handshake, by name; ``None`` leaves one out.

    Attributes:
        status: of the handshake.
        answer: its head.
    """

    def __init__(self, port: int, path: str, **headers: str | None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        self._rest = b""
        key = base64.b64encode(os.urandom(16)).decode()
        proper: dict[str, str | None] = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
        }
        own = {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{k}: {v}" for k, v in {**proper, **own}.items() if v is not None]
        self.send("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head and (chunk := self._socket.recv(65536)):
            head += chunk
        head, _, self._rest = head.partition(b"\r\n\r\n")
        self.answer = head.decode("latin-1")
        self.status = int(self.answer.split(" ", 2)[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def half_close(self) -> None:
        """Say that nothing more will come, and go on listening."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave without a word."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def receive(self) -> Frame | None:
        """Return the next frame, ``None`` at the end of the connection."""
        head = self._exactly(2)
        if head is None:
            return None
        size = head[1] & 0x7F
        if size > 125:
            wide = self._exactly(2 if size == 126 else 8) or b"\0"
            size = int.from_bytes(wide, "big")
        payload = self._exactly(size)
        if payload is None:
            return None
        return Frame(head[0] & 0x0F, payload, bool(head[0] & 0x80))

    def next_of(self, opcode: int) -> bytes | None:
        """Return the payload of the next frame of this kind; ``None`` where none comes."""
        while (found := self.receive()) is not None:
            if found.opcode == opcode:
                return found.payload
        return None

    def close_code(self) -> int | None:
        """Read to the end; return the code that was sent with it, 1005 for none, or ``None``."""
        payload = self.next_of(CLOSE)
        if payload is None:
            return None
        return struct.unpack("!H", payload[:2])[0] if payload else 1005

    def at_end(self) -> bool:
        """Whether the server has hung up, or does now."""
        return self.receive() is None

    def _exactly(self, count: int) -> bytes | None:
        while len(self._rest) < count:
            try:
                chunk = self._socket.recv(65536)
            except ConnectionResetError:
                return None
            if not chunk:
                return None
            self._rest += chunk
        found, self._rest = self._rest[:count], self._rest[count:]
        return found

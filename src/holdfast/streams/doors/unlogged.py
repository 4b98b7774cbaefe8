"""Keeps the tokens of addresses out of the logs of servers.

uvicorn writes the address of a request into its log when the answer begins, and that of a WebSocket
when its handshake is over: from the very scope that it gave to the app.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection


def conceal(connection: HTTPConnection) -> None:
    """Take the values of ``?token=`` out of the scope; *connection* itself still has them.

    In place, against the custom of ASGI: what is around the app and writes logs is to see it.
    """
    # Read before it is changed, and kept by the connection from then on.
    if "token" in connection.query_params:
        scope = connection.scope
        scope["query_string"] = b"&".join(map(_concealed, scope["query_string"].split(b"&")))


def _concealed(pair: bytes) -> bytes:
    name, _, _ = pair.partition(b"=")
    return b"token=-" if unquote_to_bytes(name) == b"token" else pair

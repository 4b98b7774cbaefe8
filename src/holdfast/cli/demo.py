"""`holdfast demo`: the demonstration, in a uvicorn of this process."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

import click

from holdfast.cli import missing

if TYPE_CHECKING:
    from socket import socket


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8000,
    envvar="PORT",
    show_default=True,
    show_envvar=True,
    help="Port to listen at.",
)
def demo(host: str, port: int) -> None:
    """Run the demo: a login, an agent at work, a page that survives.

    Open two of them with the same Redis to see a page move from one server to the other.
    """
    try:
        import uvicorn
    except ModuleNotFoundError:
        missing("uvicorn")
    for line in prepare(port):
        click.echo(line)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    class Announced(uvicorn.Server):
        async def startup(self, sockets: list[socket] | None = None) -> None:
            await super().startup(sockets)
            if not self.should_exit:
                click.echo(f"The demo is at {address}")

    config = uvicorn.Config(
        "holdfast.demo:create_app",
        factory=True,
        host=host,
        port=port,
        log_level="warning",
        # A page that stays open must not keep Ctrl-C waiting.
        timeout_graceful_shutdown=5,
    )
    server = Announced(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise SystemExit(3)  # uvicorn's own status for a server that could not start


def prepare(port: int) -> list[str]:
    """See to a secret key for this process; return what the person who started it should know."""
    from holdfast.settings import Settings

    settings = Settings()
    key = None if settings.secret_key else _made_key()
    if settings.redis_url is None:
        return []  # the log says what that means
    lines = [f"Sessions and streams are kept at {settings.redis_url_masked}."]
    if key is not None:
        lines.append("For a second server of the same demo, with the same Redis:")
        lines.append(f"  HOLDFAST_SECRET_KEY={key} holdfast demo --port {port + 1}")
    return lines


def _made_key() -> str:
    from holdfast.settings import fill_environment

    key = secrets.token_urlsafe(32)
    fill_environment({"HOLDFAST_SECRET_KEY": key}, "made by holdfast demo")
    return key

"""Real nginx and Caddy in front of servers, with the very files that the docs show.

What is changed in a file is where it listens, where it sends, and what a test names itself.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.testing.redis_process import reserve_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.process import ServerProcess

PRODUCTION = Path(__file__).resolve().parents[2] / "docs" / "production"

_NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/holdfast.conf;
}}
"""


class Proxy:
    """One running proxy.

    Attributes:
        port: where it listens.
        folder: of its files.
    """

    def __init__(self, name: str, port: int, folder: Path) -> None:
        self.name = name
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder

    def log(self) -> str:
        """Everything that it has written, to whichever log."""
        return "".join(file.read_text() for file in self._folder.glob("*log"))


def installed(name: str) -> bool:
    return shutil.which(name) is not None


@contextlib.contextmanager
def proxy(
    name: str,
    folder: Path,
    servers: Sequence[ServerProcess],
    changes: Sequence[tuple[str, str]] = (),
) -> Iterator[Proxy]:
    """Run the proxy *name* in front of *servers*.

    Args:
        folder: an empty one.
        changes: texts of its file that are replaced, each of which must be there.
    """
    with contextlib.closing(reserve_port()) as reserved:
        port = reserved.getsockname()[1]
        make = {"nginx": _nginx, "caddy": _caddy}[name]
        command = make(folder, port, [server.port for server in servers], changes)
        with (folder / "output.log").open("wb") as output:
            env = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
            process = subprocess.Popen(command, stdout=output, stderr=output, env=env)
            made = Proxy(name, port, folder)
            try:
                _await_connection(made, process)
                yield made
            finally:
                process.terminate()
                process.wait(10)


def _nginx(
    folder: Path, port: int, servers: list[int], changes: Sequence[tuple[str, str]]
) -> list[str]:
    text = (PRODUCTION / "nginx.conf").read_text()
    line = "server 127.0.0.1:8000 max_fails=0;"
    places = " ".join(line.replace("8000", str(server)) for server in servers)
    own = [
        (line, places),
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("/var/log/nginx/holdfast.log", f"{folder}/access.log"),
    ]
    (folder / "holdfast.conf").write_text(_changed(text, [*own, *changes]))
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder))
    nginx = shutil.which("nginx") or "nginx"
    # Its compiled-in log is opened before any file is read.
    return [nginx, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def _caddy(
    folder: Path, port: int, servers: list[int], changes: Sequence[tuple[str, str]]
) -> list[str]:
    text = (PRODUCTION / "Caddyfile").read_text()
    places = " ".join(f"127.0.0.1:{server}" for server in servers)
    own = [
        ("\n:80 {", f"\n{{\n\tadmin off\n}}\nhttp://:{port} {{\n\tbind 127.0.0.1"),
        ("127.0.0.1:8000", places),
    ]
    (folder / "Caddyfile").write_text(_changed(text, [*own, *changes]))
    caddy = shutil.which("caddy") or "caddy"
    return [caddy, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


def _changed(text: str, changes: Sequence[tuple[str, str]]) -> str:
    for before, after in changes:
        assert before in text, f"{before!r} is not in the file"
        text = text.replace(before, after)
    return text


def _await_connection(made: Proxy, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", made.port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(f"{made.name} did not start:\n{made.log()}")

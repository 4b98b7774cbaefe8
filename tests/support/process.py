"""A real server process of a test: started, waited for, killed or stopped, its log kept.

Nothing here knows what the server serves.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from holdfast.testing.redis_process import reserve_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 20.0
STOP_SECONDS = 10.0


class ServerProcess:
    """One Python process that serves HTTP on a loopback port, which stays its own over restarts.

    Args:
        command: arguments of the interpreter, such as ``["-m", "uvicorn", "module:app"]``;
            ``{port}`` in one is replaced by the port.
        log: the file that takes what it prints.
        env: variables beside those of the tests; ``PORT`` is set.
    """

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self._reserved = reserve_port()
        self.port: int = self._reserved.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, *(word.format(port=self.port) for word in command)]
        self._log = log
        python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        own = {"PORT": str(self.port), "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1"}
        self._env = {**os.environ, **own, **env}
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<ServerProcess {self.url} {'up' if self.running else 'down'}>"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._started().pid

    def start(self, *, wait: bool = True) -> None:
        """Start it, or start it again; with *wait* return once it accepts connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=ROOT,
                start_new_session=True,
            )
        if wait:
            self._await_connection()

    def wait(self, timeout: float = START_SECONDS) -> int:
        """Wait until it ends by itself; return its exit status."""
        return self._started().wait(timeout)

    def stop(self) -> int:
        """Send SIGTERM as an orchestrator does, wait, and return the exit status."""
        process = self._started()
        if self.running:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
                told = f"still up {STOP_SECONDS} s after SIGTERM:\n{self.log()}"
                raise AssertionError(told) from None
        return process.wait()

    def kill(self) -> None:
        """Send SIGKILL to it and to all workers that it started."""
        process = self._started()
        if self.running:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def log(self) -> str:
        """Return what it has printed since it was first started."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def await_log(self, text: str, timeout: float = START_SECONDS) -> None:
        """Wait until *text* was printed."""
        deadline = time.monotonic() + timeout
        while text not in self.log():
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} was not printed within {timeout} s:\n{self.log()}")
            time.sleep(0.02)

    def close(self) -> None:
        try:
            if self.running:
                self.stop()
        finally:
            self._reserved.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("not started")
        return self._process

    def _await_connection(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.running and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        log = self.log()
        if self.running:
            self.kill()
        raise AssertionError(f"the server did not start:\n{log}")


def uvicorn_command(app: str | PurePath, args: Sequence[str] = ()) -> list[str]:
    """Return the command that serves ``module:name``, or a file whose app is called ``app``."""
    place = [app] if isinstance(app, str) else [f"{app.stem}:app", "--app-dir", str(app.parent)]
    return ["-m", "uvicorn", *place, "--host", "127.0.0.1", "--port", "{port}", *args]

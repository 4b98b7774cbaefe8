"""What comes with holdfast, and what does not: the wheel in an empty environment, and an import."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What a user may have, and nobody gets by `import holdfast` or by installing it.
OPTIONAL = [
    "a2wsgi",
    "aiohttp",
    "authlib",
    "click",
    "cryptography",
    "django",
    "fastapi",
    "flask",
    "gunicorn",
    "httpx",
    "litestar",
    "multipart",
    "opentelemetry",
    "prometheus_client",
    "quart",
    "sanic",
    "uvicorn",
    "werkzeug",
]

# One visit to an application of each kind, with what a wheel has beside its modules.
SMOKE = """
import asyncio, json, sys
from importlib.metadata import distributions, requires
import holdfast

async def app(scope, receive, send):
    scope["session"]["user_id"] = "ada"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})

async def answer(app, path):
    sent = []
    async def send(message):
        sent.append(message)
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(),
             "query_string": b"", "headers": [], "root_path": "", "scheme": "http",
             "http_version": "1.1", "server": ("app", 80), "client": ("a", 1)}
    await app(scope, receive, send)
    return sent[0]

async def visits():
    start = await answer(holdfast.SessionMiddleware(app), "/")
    streams = holdfast.EventStreamApp()
    found = [(await answer(streams, path))["status"] for path in ("/livez", "/holdfast.js")]
    await holdfast.aclose()
    return [b"set-cookie" in dict(start["headers"]), *found]

print(json.dumps({
    "visits": asyncio.run(visits()),
    "typed": holdfast.__file__.replace("__init__.py", "py.typed"),
    "installed": sorted(each.metadata["Name"].lower() for each in distributions()),
    "optional": sorted(set(OPTIONAL) & set(sys.modules)),
    "requires": [each for each in requires("holdfast") if "extra ==" not in each],
}))
"""


def said_by(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_import_and_every_public_name_load_no_framework() -> None:
    source = f"""
import json, sys, holdfast
for name in holdfast.__all__:
    getattr(holdfast, name)
import holdfast.asgi, holdfast.wsgi, holdfast.streams.app, holdfast.sessions.doors.wsgi
print(json.dumps([name for name in {OPTIONAL!r} if name in sys.modules]))
"""
    assert json.loads(said_by(sys.executable, "-W", "error", "-c", source)) == []


@pytest.mark.slow
@pytest.mark.timeout(600)  # what is downloaded takes as long as it takes
def test_the_wheel_works_in_an_empty_environment_and_brings_little(tmp_path: Path) -> None:
    said_by(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv"))
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    said_by(*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("holdfast-*.whl")
    said_by(*pip, "--python", python, "install", str(wheel))

    source = SMOKE.replace("OPTIONAL", repr(OPTIONAL))
    found: dict[str, Any] = json.loads(said_by(python, "-I", "-W", "error", "-c", source))
    assert found["visits"] == [True, 200, 200]
    assert Path(found["typed"]).exists()
    assert found["optional"] == []
    assert not set(OPTIONAL) & {name.replace("-", "_") for name in found["installed"]}
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert sorted(name_of(each) for each in found["requires"]) == sorted(map(name_of, own))
    assert sorted(map(name_of, own)) == [
        "asgiref",
        "itsdangerous",
        "pydantic-settings",
        "redis",
        "starlette",
    ]


def name_of(requirement: str) -> str:
    """Return the name that a requirement begins with."""
    return requirement.replace("[", " ").replace("<", " ").replace(">", " ").split(maxsplit=1)[0]

"""`holdfast serve` and `HOLDFAST_APP`: applications that nobody has touched, on real servers."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve
    from tests.support.process import ServerProcess

    from holdfast.testing import RedisServer

SITES = {
    "of_starlette": """
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route

        async def home(request):
            request.session["n"] = request.session.get("n", 0) + 1
            return PlainTextResponse(str(request.session["n"]))

        app = Starlette(routes=[Route("/", home)])
    """,
    "of_flask": """
        from flask import Flask, session

        app = Flask(__name__)
        app.secret_key = "the key of the site itself"

        @app.get("/")
        def home():
            session["n"] = session.get("n", 0) + 1
            return str(session["n"])
    """,
    "of_wsgi": """
        def app(environ, start_response):
            session = environ["holdfast.session"]
            session["n"] = session.get("n", 0) + 1
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [str(session["n"]).encode()]
    """,
    "of_asgi_2": """
        class app:
            def __init__(self, scope):
                self.session = scope.get("session")

            async def __call__(self, receive, send):
                self.session["n"] = self.session.get("n", 0) + 1
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": b"%d" % self.session["n"]})
    """,
}


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    """A folder of modules, one application in each."""
    for name, text in SITES.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    return tmp_path


def visited(server: ServerProcess) -> list[str]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        found = [client.get("/").text for _ in range(3)]
        assert client.get("/streams/livez").status_code == 200
    return found


def serve_command(app: str, sites: Path, *options: str) -> list[str]:
    where = ["--app-dir", str(sites), "--port", "{port}"]
    return ["-m", "holdfast", "serve", app, *where, *options]


@pytest.mark.parametrize("name", SITES)
def test_an_application_that_nobody_touched(name: str, serve: Serve, sites: Path) -> None:
    server = serve(serve_command(f"{name}:app", sites), env={"PYTHONPATH": str(sites)})
    assert visited(server) == ["1", "2", "3"]


def test_a_factory_after_the_options(serve: Serve, sites: Path) -> None:
    text = "from of_flask import app\n\ndef create_app(debug=False):\n    return app\n"
    (sites / "of_a_factory.py").write_text(text)
    options = ["--app-dir", str(sites), "--port", "{port}", "--interface", "wsgi", "--factory"]
    server = serve(["-m", "holdfast", "serve", *options, "of_a_factory:create_app"])
    assert visited(server) == ["1", "2", "3"]


@pytest.mark.slow
def test_workers_and_a_restart_share_what_redis_keeps(
    serve: Serve, sites: Path, redis: RedisServer, key_prefix: str
) -> None:
    env = {
        "PYTHONPATH": str(sites),
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": key_prefix,
        "HOLDFAST_SECRET_KEY": "a key of sixteen characters",
        "HOLDFAST_APP": "the.command:line.is.heard",
    }
    server = serve(serve_command("of_flask:app", sites, "--workers", "2"), env=env)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert [client.get("/").text for _ in range(10)] == [str(n) for n in range(1, 11)]
        server.stop()
        server.start()
        assert client.get("/").text == "11"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["of_flask", "of_wsgi"])
def test_any_wsgi_server_runs_it(name: str, serve: Serve, sites: Path) -> None:
    pytest.importorskip("gunicorn")
    env = {"PYTHONPATH": str(sites), "HOLDFAST_APP": f"{name}:app"}
    where = ["--bind", "127.0.0.1:{port}", "--threads", "2", "holdfast.wsgi:app"]
    server = serve(["-m", "gunicorn", *where], env=env)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert [client.get("/").text for _ in range(3)] == ["1", "2", "3"]
        assert client.get("/streams/livez").json() == {"status": "ok"}


def test_a_server_that_looks_into_the_modules_dict_finds_it(serve: Serve, sites: Path) -> None:
    pytest.importorskip("hypercorn")
    env = {"PYTHONPATH": str(sites), "HOLDFAST_APP": "of_flask:app"}
    command = ["-m", "hypercorn", "--bind", "127.0.0.1:{port}", "holdfast.asgi:app"]
    assert visited(serve(command, env=env)) == ["1", "2", "3"]
    asked = "from werkzeug.test import Client; import holdfast.wsgi as w"
    code, said = told(
        sites,
        "-c",
        f"{asked}; print(Client(vars(w)['app']).get('/').text)",
        HOLDFAST_APP="of_wsgi:app",
    )
    assert (code, said.splitlines()[0]) == (0, "1")


def told(sites: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(sites)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_cannot_be_served_is_told_in_one_line(sites: Path) -> None:
    code, said = told(sites, "-m", "holdfast", "serve", "of_nobody:app")
    assert (code, said.count("\n")) == (2, 1)
    assert "no module 'of_nobody'" in said
    code, said = told(sites, "-m", "holdfast", "serve", "no colon")
    assert (code, "package.module:name" in said) == (2, True)
    code, said = told(sites, "-m", "holdfast", "serve", "of_wsgi:app", "--workers", "2")
    assert (code, "HOLDFAST_REDIS_URL" in said) == (2, True)
    (sites / "of.env").write_text(
        "HOLDFAST_REDIS_URL=redis://127.0.0.1\nHOLDFAST_STREAM_MAXLEN=0\n"
    )
    options = ["--workers", "2", "--env-file", str(sites / "of.env")]
    code, said = told(sites, "-m", "holdfast", "serve", "of_wsgi:app", *options)
    assert (code, "HOLDFAST_STREAM_MAXLEN" in said) == (2, True)
    code, said = told(sites, "-m", "holdfast", "serve", "of_wsgi:app", "--nonsense")
    assert (code, "--nonsense" in said) == (2, True)


def test_what_an_application_lacks_is_not_taken_for_its_own_absence(sites: Path) -> None:
    (sites / "of_a_mistake.py").write_text("import os\n\nos.nothing_of_that_name\n")
    code, said = told(sites, "-m", "holdfast", "serve", "of_a_mistake:app")
    assert (code, "has no attribute 'nothing_of_that_name'" in said) == (1, True)


def test_its_help_is_that_of_uvicorn(sites: Path) -> None:
    code, said = told(sites, "-m", "holdfast", "serve", "--help")
    assert code == 0
    assert "--workers" in said
    assert "Usage: holdfast serve" in said
    assert "HOLDFAST_STREAM_MOUNT" in said


def test_an_asgi_application_is_none_for_a_wsgi_server(sites: Path) -> None:
    code, said = told(
        sites, "-c", "import holdfast.wsgi as w; w.app", HOLDFAST_APP="of_starlette:app"
    )
    assert code == 1
    assert "serve holdfast.asgi:app" in said
    for module in ("asgi", "wsgi"):
        code, said = told(sites, "-c", f"import holdfast.{module} as m; m.other")
        assert (code, "has no attribute 'other'" in said) == (1, True)

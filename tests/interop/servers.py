"""How each ASGI server is started with the app of the tests, and what it cannot do at its end."""

from __future__ import annotations

APP = "tests.streams.served:app"

COMMANDS = {
    "uvicorn": ["-m", "uvicorn", APP, "--port", "{port}"],
    "uvicorn-workers": ["-m", "uvicorn", APP, "--port", "{port}", "--workers", "2"],
    "granian": ["-m", "granian", "--interface", "asgi", "--port", "{port}", APP],
    "hypercorn": ["-m", "hypercorn", "--workers", "0", "--bind", "127.0.0.1:{port}", APP],
    "hypercorn-workers": [
        *("-m", "hypercorn", "--graceful-timeout", "1", "--bind", "127.0.0.1:{port}", APP),
    ],
    "gunicorn-uvicorn": [
        *("-m", "gunicorn", "--worker-class", "uvicorn_worker.UvicornWorker"),
        *("--bind", "127.0.0.1:{port}", APP),
    ],
    "gunicorn-asgi": [
        "-m",
        "gunicorn",
        "--worker-class",
        "asgi",
        "--bind",
        "127.0.0.1:{port}",
        APP,
    ],
}

LETS_STREAMS_BE_CUT = {"hypercorn-workers"}
"""Their workers hear no signal and the apps in them nothing, until they are cancelled."""

CUTS_WEBSOCKETS = {"granian"}
"""It hangs up (1006) at the signal, unless our close frame comes before."""

"""A Flask application that is loaded, and used, before its server forks.

Its first session is loaded and stored by the parent, so that the children inherit all that a
careless link would share: connections, threads, locks.
"""

from __future__ import annotations

import os

import flask
from flask import Flask

from holdfast import Holdfast

app = Flask(__name__)
Holdfast(app)


@app.get("/begin/<me>")
def begin(me: str) -> str:
    """Give the visitor a session of his own."""
    flask.session["me"], flask.session["n"] = me, 0
    return me


@app.get("/next")
def advance() -> dict[str, object]:
    """Count, and say whose session it is."""
    flask.session["n"] += 1
    return {"me": flask.session["me"], "n": flask.session["n"], "pid": os.getpid()}


with app.test_client() as client:
    client.get("/begin/the-parent")
    if client.get("/next").get_json()["n"] != 1:
        raise RuntimeError("the parent has no session")

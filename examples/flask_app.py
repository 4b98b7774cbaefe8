"""A login, a cart and a flash message on Flask, with the sessions of holdfast.

    pip install 'holdfast[flask]'
    export HOLDFAST_REDIS_URL=redis://localhost:6379/0 HOLDFAST_SECRET_KEY=...
    flask --app flask_app run

Without the two variables it runs in memory, for one process. Behind gunicorn with as many workers
as you like, and under gevent, it is the same file: ``gunicorn -w 4 flask_app:app``.
"""

from __future__ import annotations

import flask
from flask import Flask

from holdfast import Holdfast
from holdfast.flask import get_session

app = Flask(__name__)
Holdfast(app)


@app.post("/login")
def login() -> str:
    """Log in; the session gets a new id by itself, because its user changes."""
    flask.session["user_id"] = flask.request.form["name"]
    flask.flash(f"Welcome, {flask.session['user_id']}")
    return "logged in\n"


@app.post("/cart/<item>")
def put(item: str) -> dict[str, object]:
    """Put something into the cart: a change inside a value is kept."""
    flask.session.setdefault("cart", []).append(item)
    return {"cart": flask.session["cart"]}


@app.get("/")
def page() -> dict[str, object]:
    """Show whose session this is, and how often he was here."""
    return {
        "user": flask.session.get("user_id"),
        "cart": flask.session.get("cart", []),
        "messages": flask.get_flashed_messages(),
        # Counted in one piece, however many requests of his come at once.
        "visits": get_session().incr("visits"),
    }


@app.post("/logout")
def logout() -> str:
    """End the session, here and in the browser."""
    get_session().invalidate()
    return "logged out\n"

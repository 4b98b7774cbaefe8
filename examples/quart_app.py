"""A login and a cart on Quart, with the sessions of holdfast.

    pip install 'holdfast[quart]' hypercorn
    export HOLDFAST_REDIS_URL=redis://localhost:6379/0 HOLDFAST_SECRET_KEY=...
    hypercorn quart_app:app

Without the two variables it runs in memory, for one process.
"""

from __future__ import annotations

import quart
from quart import Quart

from holdfast import Holdfast
from holdfast.quart import get_session

app = Quart(__name__)
Holdfast(app)


@app.post("/login")
async def login() -> str:
    """Log in; the session gets a new id by itself, because its user changes."""
    form = await quart.request.form
    quart.session["user_id"] = form["name"]
    return "logged in\n"


@app.post("/cart/<item>")
async def put(item: str) -> dict[str, object]:
    """Put something into the cart: a change inside a value is kept."""
    quart.session.setdefault("cart", []).append(item)
    return {"cart": quart.session["cart"]}


@app.get("/")
async def page() -> dict[str, object]:
    """Show whose session this is, and how often he was here."""
    return {
        "user": quart.session.get("user_id"),
        "cart": quart.session.get("cart", []),
        # Counted in one piece, however many requests of his come at once.
        "visits": await get_session().incr("visits"),
    }


@app.websocket("/cart")
async def watch() -> None:
    """Tell a page what is in the cart."""
    await quart.websocket.accept()
    await quart.websocket.send_json(quart.session.get("cart", []))


@app.post("/logout")
async def logout() -> str:
    """End the session, here and in the browser."""
    get_session().invalidate()
    return "logged out\n"

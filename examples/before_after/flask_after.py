"""A shop on Flask: who is there, and what they put into their cart."""

from typing import Any

from flask import Flask, session
from holdfast import Holdfast

app = Flask(__name__)
app.secret_key = "a key that the shop has had for years"
Holdfast(app)


@app.get("/")
def home() -> dict[str, Any]:
    return {"user": session.get("user_id"), "cart": session.get("cart", [])}


@app.post("/login/<name>")
def log_in(name: str) -> dict[str, Any]:
    session["user_id"] = name
    return home()


@app.post("/cart/<item>")
def put(item: str) -> dict[str, Any]:
    session["cart"] = [*session.get("cart", []), item]
    return home()


@app.post("/logout")
def log_out() -> dict[str, Any]:
    session.clear()
    return home()

"""A shop on FastAPI: who is there, and what they put into their cart."""

from typing import Any

from fastapi import FastAPI, Request
from holdfast import EventStreamApp, SessionMiddleware

app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key="a key that the shop has had for years")
app.mount("/streams", EventStreamApp())


@app.get("/")
def home(request: Request) -> dict[str, Any]:
    return {"user": request.session.get("user_id"), "cart": request.session.get("cart", [])}


@app.post("/login/{name}")
def log_in(request: Request, name: str) -> dict[str, Any]:
    request.session["user_id"] = name
    return home(request)


@app.post("/cart/{item}")
def put(request: Request, item: str) -> dict[str, Any]:
    request.session["cart"] = [*request.session.get("cart", []), item]
    return home(request)


@app.post("/logout")
def log_out(request: Request) -> dict[str, Any]:
    request.session.clear()
    return home(request)

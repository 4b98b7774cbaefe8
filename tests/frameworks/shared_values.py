"""The example of a shared login, with addresses that write what one framework alone can write,
and that end it at each.

A site of its own process, because Django is configured once in each.
"""

import uuid
from datetime import UTC, datetime
from typing import Any

import flask
from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.signals import user_logged_in
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from examples import shared_login
from fastapi import Request
from markupsafe import Markup
from starlette.types import Receive, Scope, Send

from holdfast import EventStreamApp, RunPublisher, get_session, stream_token

BY_FLASK: dict[str, Any] = {
    "pair": (1, (2, 3)),
    "raw": b"\x00\xff",
    "markup": Markup("<b>bold</b>"),
    "id": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "when": datetime(2026, 11, 21, 20, 30, tzinfo=UTC),
    "deep": {"list": [(1,), {"of": b"bytes"}]},
}
BY_FASTAPI: dict[str, Any] = {"plain": {"a": [1, None, True, 1.5, "é"]}, "count": 1}


@shared_login.shop.post("/shop/values")
def write_by_flask() -> dict[str, str]:
    flask.session.update(BY_FLASK)
    flask.session.permanent = True
    flask.flash("Welcome")
    return {}


@shared_login.shop.get("/shop/values")
def read_by_flask() -> dict[str, Any]:
    return {
        "own": {key: flask.session.get(key) == value for key, value in BY_FLASK.items()},
        "types": {key: type(flask.session.get(key)).__name__ for key in BY_FLASK},
        "plain": {key: flask.session.get(key) for key in BY_FASTAPI},
        "permanent": flask.session.permanent,
        "messages": flask.get_flashed_messages(),
        "user": flask.session.get("user_id"),
    }


@shared_login.api.post("/api/values")
async def write_by_fastapi(request: Request) -> dict[str, Any]:
    request.session.update(BY_FASTAPI)
    await get_session(request).incr("count")
    return {}


@shared_login.api.post("/api/pair")
async def write_what_flask_wrote(request: Request) -> dict[str, Any]:
    request.session["pair"] = (4, 5)
    return {}


@shared_login.api.get("/api/values")
async def read_by_fastapi(request: Request) -> dict[str, Any]:
    return dict(request.session)


def tell_the_others(request: HttpRequest, user: Any, **_: Any) -> None:
    request.session["user_id"] = user.get_username()


def values_by_django(request: HttpRequest) -> JsonResponse:
    if request.method == "POST":
        login(request, authenticate(request, remote_user="grace"))
        request.session.set_expiry(3600)
        request.session["of_django"] = {"visits": [1, 2]}
    return JsonResponse(dict(request.session.items()))


# --- ends -----------------------------------------------------------------------------------------


@shared_login.shop.post("/shop/logout")
def log_out_at_flask() -> dict[str, str]:
    flask.session.clear()
    return {}


@shared_login.api.post("/api/logout")
async def log_out_at_fastapi(request: Request) -> None:
    request.session.clear()


def log_out_at_django(request: HttpRequest) -> JsonResponse:
    logout(request)
    return JsonResponse({})


@shared_login.api.post("/api/run/{run_id}")
async def begin(request: Request, run_id: str) -> str:
    await RunPublisher(run_id).emit("begun", {})
    return stream_token(run_id, session=get_session(request))


shared_login.api.mount("/streams", EventStreamApp())
user_logged_in.connect(tell_the_others)
shared_login.urlpatterns.append(path("account/values", csrf_exempt(values_by_django)))
shared_login.urlpatterns.append(path("account/out", csrf_exempt(log_out_at_django)))
shared_login.prepare()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await shared_login.app(scope, receive, send)

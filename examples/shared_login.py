"""One login for a Flask app, a FastAPI app and a Django site: in at one, known at all, out at any.

    export HOLDFAST_REDIS_URL=redis://localhost:6379/0 HOLDFAST_SECRET_KEY=...
    export HOLDFAST_SESSION_USER_KEY=user_id
    python examples/shared_login.py        # then open http://127.0.0.1:8000/shop/

Here one process serves all three, to be tried. Each is a whole application, and on a real site has
a server of its own, all behind one proxy: ``gunicorn shared_login:shop``, ``uvicorn
shared_login:api``, ``gunicorn shared_login:account``. docs/frameworks/shared-login.md has the
proxy's file, and tells what they have to agree on.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django
import flask
import uvicorn
from a2wsgi import WSGIMiddleware
from django.conf import settings
from django.contrib.auth import authenticate, logout
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.middleware.csrf import get_token
from django.urls import path
from django.utils.functional import SimpleLazyObject
from django.utils.html import format_html
from django.views.decorators.http import require_POST
from fastapi import FastAPI, Request
from starlette.types import Receive, Scope, Send

from holdfast import Holdfast, SessionMiddleware
from holdfast.flask import get_session

# --- Flask: the shop. It knows the passwords, and writes who the user is into the session. --------

PASSWORDS = {"ada": "lovelace", "grace": "hopper"}  # stands for a table of yours

shop = flask.Flask(__name__)
Holdfast(shop)

SHOP = """<!doctype html><title>Shop</title>
<p id=who>{{ session.get("user_id", "Nobody") }}</p> <p>In the cart: {{ session.get("cart", []) }}
<form method=post action=/shop/login><input name=name value=ada>
<input name=password type=password><button>Log in</button></form>
<form method=post action=/shop/cart><input name=item value=tea><button>Buy</button></form>
<p><a href=/api/me>What the API knows</a> <a href=/account/>Your account</a>"""


@shop.get("/shop/")
def front() -> str:
    return flask.render_template_string(SHOP)


@shop.post("/shop/login")
def log_in() -> flask.typing.ResponseReturnValue:
    name, password = flask.request.form["name"], flask.request.form["password"]
    if PASSWORDS.get(name) != password:
        return "no such user, or another password", 401
    if get_session().get("user_id") not in {None, name}:
        flask.session.clear()  # what somebody else has put into it is not for this user
    flask.session["user_id"] = name  # the session gets a new id by itself
    return flask.redirect("/shop/")


@shop.post("/shop/cart")
def buy() -> flask.typing.ResponseReturnValue:
    flask.session.setdefault("cart", []).append(flask.request.form["item"])
    return flask.redirect("/shop/")


# --- FastAPI: the API ---------------------------------------------------------------------------

api = FastAPI()
api.add_middleware(SessionMiddleware)


@api.get("/api/me")
async def me(request: Request) -> dict[str, Any]:
    return {"user": request.session.get("user_id"), "cart": request.session.get("cart", [])}


# --- Django: the account. Its user is whom the session names. -------------------------------------

DATABASE = Path(os.environ.get("SITE_DATABASE", tempfile.gettempdir() + "/holdfast-shared.sqlite3"))

settings.configure(
    SECRET_KEY=os.environ.get("SITE_SECRET_KEY", "an example's key, to be replaced by your own"),
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    SESSION_ENGINE="holdfast.django",
    SESSION_COOKIE_NAME="session",  # as the others call it
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "holdfast.django"],
    MIDDLEWARE=[
        "holdfast.django.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        f"{__name__}.shared_user",  # in place of AuthenticationMiddleware
    ],
    # Believes the name that it is given, and has a row for it from its first visit on.
    AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.RemoteUserBackend"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}},
)
django.setup()


def shared_user(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Make ``request.user`` of the session's user, when somebody first asks for them."""
    from django.contrib.auth.models import AnonymousUser  # noqa: PLC0415 - once set up

    def user_of(request: HttpRequest) -> Any:
        name = request.session.get("user_id")
        return (name and authenticate(request, remote_user=name)) or AnonymousUser()

    def middleware(request: HttpRequest) -> HttpResponse:
        request.user = SimpleLazyObject(lambda: user_of(request))
        return get_response(request)

    return middleware


ACCOUNT = """<!doctype html><title>Account</title><p id=who>{}</p>
<form method=post action=/account/logout><input type=hidden name=csrfmiddlewaretoken value="{}">
<button>Log out</button></form>"""


def home(request: HttpRequest) -> HttpResponse:
    who = request.user.get_username() or "Nobody"
    return HttpResponse(format_html(ACCOUNT, who, get_token(request)))


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)  # ends the session for all three, and for every copy of its cookie
    return HttpResponseRedirect("/account/")


urlpatterns = [path("account/", home), path("account/logout", require_POST(log_out))]
account = get_wsgi_application()


# --- all three in one process ---------------------------------------------------------------------

_wsgi: dict[str, Any] = {"shop": shop, "account": account}
_apps: dict[str, Any] = {name: WSGIMiddleware(each) for name, each in _wsgi.items()}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Do what the proxy does on a real site: choose by the beginning of the path."""
    first = scope.get("path", "").split("/")[1:2]
    await _apps.get("".join(first), api)(scope, receive, send)


def prepare() -> None:
    """Make Django's tables, unless they are there."""
    call_command("migrate", verbosity=0)


if __name__ == "__main__":
    if not os.environ.get("HOLDFAST_REDIS_URL"):
        sys.exit("Several applications share sessions through Redis: set HOLDFAST_REDIS_URL.")
    prepare()
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))

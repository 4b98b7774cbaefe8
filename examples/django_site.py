"""A Django site of one file, its sessions kept by holdfast: Django's own login, a cart, a logout.

    python examples/django_site.py        # then open http://127.0.0.1:8000 (PORT changes it)

Two lines are holdfast's: ``SESSION_ENGINE``, and the middleware that answers 503 while a session
cannot be reached. Any WSGI or ASGI server runs it too: ``gunicorn --chdir examples
django_site:application``.
"""

import os
import sys
import tempfile
from pathlib import Path

import django
from django.conf import settings
from django.contrib.auth import authenticate, get_user_model, login, logout
from django.core.management import call_command, execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.middleware.csrf import get_token
from django.urls import path
from django.utils.html import format_html

DATABASE = Path(os.environ.get("SITE_DATABASE", tempfile.gettempdir() + "/holdfast-django.sqlite3"))

settings.configure(
    SECRET_KEY=os.environ.get("SITE_SECRET_KEY", "an example's key, to be replaced by your own"),
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    SESSION_ENGINE="holdfast.django",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "holdfast.django"],
    MIDDLEWARE=[
        "holdfast.django.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}},
    # For the demonstration alone: it makes the tests of this file quick.
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
)
django.setup()

PAGE = """<!doctype html><title>Shop</title>
<p>{}: {} in the cart.
<form method="post" action="/cart"><input type="hidden" name="csrfmiddlewaretoken" value="{}">
<button>Put one more in</button></form>
<form method="post" action="/login"><input type="hidden" name="csrfmiddlewaretoken" value="{}">
<input name="username" value="ada"><input name="password" type="password" value="lovelace">
<button>Log in</button></form>
<form method="post" action="/logout"><input type="hidden" name="csrfmiddlewaretoken" value="{}">
<button>Log out</button></form>
"""


def home(request: HttpRequest) -> HttpResponse:
    """Show who is there and what they have in their cart."""
    name = request.user.get_username() or "Somebody"
    token = get_token(request)
    return HttpResponse(
        format_html(PAGE, name, request.session.get("cart", 0), token, token, token)
    )


def whoami(request: HttpRequest) -> JsonResponse:
    """Tell the same to a program."""
    return JsonResponse(
        {"user": request.user.get_username() or None, "cart": request.session.get("cart", 0)}
    )


def cart(request: HttpRequest) -> HttpResponseBase:
    """Put one thing into the cart."""
    request.session["cart"] = request.session.get("cart", 0) + 1
    return whoami(request)


def log_in(request: HttpRequest) -> HttpResponseBase:
    """Log in as Django does: the session stays, and its secret is a new one."""
    given = {name: request.POST.get(name, "") for name in ("username", "password")}
    user = authenticate(request, **given)
    if user is None:
        return JsonResponse({"detail": "no such user, or another password"}, status=401)
    login(request, user)
    return whoami(request)


def log_out(request: HttpRequest) -> HttpResponseBase:
    """End the session, for every copy of its cookie."""
    logout(request)
    return whoami(request)


urlpatterns = [
    path("", home),
    path("whoami", whoami),
    path("cart", cart),
    path("login", log_in),
    path("logout", log_out),
]
application = get_wsgi_application()


def prepare() -> None:
    """Make the database and its one user, unless they are there."""
    call_command("migrate", verbosity=0)
    users = get_user_model().objects
    if not users.filter(username="ada").exists():
        users.create_user("ada", password="lovelace")  # noqa: S106 - an example


if __name__ == "__main__":
    prepare()
    port = os.environ.get("PORT", "8000")
    given = sys.argv[1:] or ["runserver", "--noreload", f"127.0.0.1:{port}"]
    execute_from_command_line([sys.argv[0], *given])

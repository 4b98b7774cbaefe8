"""A shop on Django: who is there, and what they put into their cart."""

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

settings.configure(
    SECRET_KEY="a key that the shop has had for years",
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("SITE_DATABASE", "shop.sqlite3"),
        }
    },
)


def home(request: HttpRequest) -> JsonResponse:
    session = request.session
    return JsonResponse({"user": session.get("user_id"), "cart": session.get("cart", [])})


def log_in(request: HttpRequest, name: str) -> JsonResponse:
    request.session["user_id"] = name
    return home(request)


def put(request: HttpRequest, item: str) -> JsonResponse:
    request.session["cart"] = [*request.session.get("cart", []), item]
    return home(request)


def log_out(request: HttpRequest) -> JsonResponse:
    request.session.flush()
    return home(request)


urlpatterns = [
    path("", home),
    path("login/<name>", log_in),
    path("cart/<item>", put),
    path("logout", log_out),
]
app = get_wsgi_application()

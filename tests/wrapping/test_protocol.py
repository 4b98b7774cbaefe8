"""Which protocol an application speaks, and whether there is one."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from starlette.applications import Starlette

from holdfast.errors import ConfigurationError
from holdfast.wrapping.protocol import application_of, protocol_of

if TYPE_CHECKING:
    from pathlib import Path


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def asgi_by_hand(scope: Any, receive: Any, send: Any) -> Any: ...


def wsgi(environ: Any, start_response: Any) -> Any: ...


def factory() -> Any: ...


async def no_arguments() -> None: ...


def anything(*each: Any) -> Any: ...


class OfASGI:
    async def __call__(self, *each: Any) -> None: ...


class Double:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


class OfWSGI:
    def __call__(self, environ: Any, start_response: Any, extra: int = 0) -> Any: ...


class Hidden:
    def __call__(self, *each: Any) -> Any: ...


@pytest.mark.parametrize(
    ("app", "protocol"),
    [
        (asgi, "asgi"),
        (asgi_by_hand, "asgi"),
        (wsgi, "wsgi"),
        (OfASGI(), "asgi"),
        (OfASGI().__call__, "asgi"),
        (Double, "asgi"),
        (OfWSGI(), "wsgi"),
        (functools.partial(asgi_by_hand), "asgi"),
        (Starlette(), "asgi"),
        (Flask(__name__), "wsgi"),
    ],
    ids=[
        *("coroutine function", "three arguments", "two arguments", "async __call__", "its method"),
        "asgi 2",
        *("__call__ with a default", "partial", "Starlette", "Flask"),
    ],
)
def test_the_protocol_of(app: Any, protocol: str) -> None:
    assert protocol_of(app) == protocol


@pytest.mark.parametrize("app", [factory, Hidden(), print], ids=["none", "hidden", "builtin"])
def test_what_cannot_be_seen_is_asked_for(app: Any) -> None:
    with pytest.raises(ConfigurationError, match='protocol="asgi"'):
        protocol_of(app)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (None, "HOLDFAST_APP is not set"),
        ("nowhere_to_be_found:app", "no module 'nowhere_to_be_found'"),
        ("tests.nowhere:app", "no module 'tests.nowhere'"),
        ("tests.support:app", "has no application called 'app'"),
        ("tests.support.__doc__:upper.nothing", "no module"),
        ("holdfast.errors:__doc__", "has no application"),
    ],
)
def test_an_application_that_is_not_there_is_told(path: str | None, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        application_of(path)


def test_what_its_module_raises_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_site.py").write_text("import a_package_that_it_needs")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_it_needs"):
        application_of("broken_site:app")


class Site:
    """Makes an application, by its class and by a method."""

    def __call__(self, environ: Any, start_response: Any) -> Any: ...

    @staticmethod
    def create(debug: bool = False) -> Any:
        return wsgi


@pytest.mark.parametrize("name", ["Site", "Site.create"])
def test_what_can_be_called_with_nothing_makes_the_application(name: str) -> None:
    assert protocol_of(application_of(f"tests.wrapping.test_protocol:{name}")) == "wsgi"


@pytest.mark.parametrize("name", ["asgi", "asgi_by_hand", "wsgi", "anything", "no_arguments"])
def test_an_application_is_not_called_as_a_factory(name: str) -> None:
    assert application_of(f"tests.wrapping.test_protocol:{name}") is globals()[name]


def test_a_factory_that_makes_no_application_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"factory\(\) makes no application, but NoneType"):
        application_of("tests.wrapping.test_protocol:factory")


def test_a_name_may_have_dots() -> None:
    assert application_of("tests.wrapping.test_protocol:OfASGI.__call__") is OfASGI.__call__

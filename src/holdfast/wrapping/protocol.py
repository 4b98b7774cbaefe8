"""Which application is meant, and which protocol it speaks. Nothing is wrapped here, nor served."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any, Literal

from holdfast.errors import ConfigurationError

Protocol = Literal["asgi", "wsgi"]

_ARGUMENTS: dict[int, Protocol] = {2: "wsgi", 3: "asgi"}


def application_of(path: str | None) -> Any:
    """Return the application that ``HOLDFAST_APP`` names, or that the factory there makes.

    A factory is what can be called with nothing.

    Args:
        path: as ``package.module:name``; the name may have dots.

    Raises:
        ConfigurationError: none is named, or it is not there. What the module itself raises while
            it is imported, and what the factory raises, is passed on as it is.
    """
    if path is None:
        raise ConfigurationError(
            "HOLDFAST_APP is not set: name the application, as in HOLDFAST_APP=shop.main:app"
        )
    module, _, name = path.partition(":")
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise
        raise ConfigurationError(
            f"HOLDFAST_APP={path}: there is no module {error.name!r} here; run it from the folder "
            "of the application, or set PYTHONPATH"
        ) from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigurationError(
            f"HOLDFAST_APP={path}: {module!r} has no application called {name!r}"
        )
    if not _is_factory(found):
        return found
    made = found()
    if not callable(made):
        raise ConfigurationError(
            f"HOLDFAST_APP={path}: {name}() makes no application, but {type(made).__name__}"
        )
    return made


def _is_factory(found: Any) -> bool:
    try:
        asked = inspect.signature(found)
        asked.bind()
    except (TypeError, ValueError):
        return False
    # What takes whatever there is, as the wrapper of a decorator does, may well be an application.
    everything = any(each.kind is each.VAR_POSITIONAL for each in asked.parameters.values())
    return not everything and not inspect.iscoroutinefunction(found)


def protocol_of(app: Any) -> Protocol:
    """Tell an ASGI application from a WSGI one.

    | what is called             | protocol |
    |----------------------------|----------|
    | a coroutine function       | ASGI     |
    | with three arguments       | ASGI     |
    | with two arguments         | WSGI     |
    | anything else              | unknown  |

    An instance is judged by its ``__call__``, and so is a class of ASGI 2. Arguments with a default
    do not count.

    Raises:
        ConfigurationError: it cannot be seen.
    """
    if any(map(inspect.iscoroutinefunction, (app, getattr(app, "__call__", None)))):  # noqa: B004
        return "asgi"
    needed = _arguments_of(app)
    if needed not in _ARGUMENTS:
        raise ConfigurationError(
            f"it cannot be seen whether {app!r} is an ASGI or a WSGI application: say "
            'Holdfast(app, protocol="asgi"), or protocol="wsgi", and serve that'
        )
    return _ARGUMENTS[needed]


def is_double(app: Any) -> bool:
    """Whether *app* is of ASGI 2: a class that is made with the scope, and called with the rest."""
    return (
        inspect.isclass(app)
        and inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004
        and _arguments_of(app) == 1
    )


def _arguments_of(app: Any) -> int:
    try:
        given = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return 0
    plain = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return sum(each.kind in plain and each.default is each.empty for each in given)

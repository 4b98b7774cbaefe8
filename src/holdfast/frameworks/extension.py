"""``Holdfast(app)``: the one line that equips an application of Flask or Quart.

It only chooses what of ours the application gets; neither framework is imported for the other's
sake.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from holdfast.runtime import runtime

if TYPE_CHECKING:
    from flask import Flask
    from quart import Quart

    from holdfast.settings import Settings


class Holdfast:
    """Server-side sessions for a Flask or Quart application, as its extensions are added.

    ``Holdfast(app)``, or ``holdfast = Holdfast()`` and later ``holdfast.init_app(app)``, for as
    many applications as there are. Found again at ``app.extensions["holdfast"]``. Where neither
    Redis nor a secret key is set, a key is made up for this process, and the log says so.

    Args:
        app: the application; ``None``: it comes by :meth:`init_app`.
        settings: in place of those of the environment.

    Raises:
        ConfigurationError: the settings cannot work.
        TypeError: *app* is an application of neither.
    """

    def __init__(self, app: Flask | Quart | None = None, *, settings: Settings | None = None):
        self._settings = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask | Quart) -> None:
        """Equip *app*. Raises as the constructor does."""
        # A wrong variable is told here, where a person sees it, and not by the first request.
        runtime(self._settings)
        equipped: Any = app
        equipped.session_interface = self._interface(app)
        equipped.extensions["holdfast"] = self

    def _interface(self, app: object) -> Any:
        if _is_a(app, "flask", "Flask"):
            from holdfast.flask import FlaskSessionInterface

            return FlaskSessionInterface(self._settings, key_needed=False)
        if _is_a(app, "quart", "Quart"):
            from holdfast.quart import QuartSessionInterface

            return QuartSessionInterface(self._settings, key_needed=False)
        raise TypeError(
            f"Holdfast() equips applications of Flask and Quart, not {type(app).__name__}: put "
            "SessionMiddleware around an ASGI application, WSGISessionMiddleware around a WSGI one"
        )


def _is_a(app: object, module: str, name: str) -> bool:
    # Who has made an application of a framework has imported it.
    framework = getattr(sys.modules.get(module), name, None)
    return framework is not None and isinstance(app, framework)

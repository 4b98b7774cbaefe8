"""A module whose ``app`` servers name: made at the first look at it, and never by an import.

Nothing is imported here, because the modules that are of this kind are imported by anybody.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any


class Served(ModuleType):
    """A module with an ``app`` that its ``_make()`` makes once.

    What stands as ``app`` in its dict is for servers that look it up there (hypercorn, uWSGI), and
    asks for this one at the first request.
    """

    @property
    def app(self) -> Any:
        """The application.

        Raises:
            RuntimeError: an ``AttributeError`` came up, which who asks for an attribute would take
                for its absence. Everything else is passed on as it is.
        """
        kept = vars(self)
        try:
            if "_made" not in kept:
                kept["_made"] = kept["_make"]()
        except AttributeError as error:
            raise RuntimeError(f"the application of HOLDFAST_APP failed: {error}") from error
        return kept["_made"]

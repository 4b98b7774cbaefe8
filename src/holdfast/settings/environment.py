"""The one place that reads, or fills, the environment of the process.

It finds the text of each variable and says where it stood. Whether the text is right is not decided
here.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

from pydantic_settings import PydanticBaseSettingsSource

from holdfast.settings.table import PREFIX, variable_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo
    from pydantic_settings import BaseSettings

#: Set by Kubernetes for a service called "holdfast", and by holdfast's own tests.
NOT_OURS = ("HOLDFAST_PORT", "HOLDFAST_SERVICE_", "HOLDFAST_TEST_")

#: Variables that :func:`fill_environment` set, and from where.
_origins: dict[str, str] = {}


def fingerprint() -> tuple[tuple[str, str], ...]:
    """What the environment says to holdfast, as a value: equal as long as no variable changes."""
    names = ("REDIS_URL", "REDIS_STREAM_ENABLED", "WEB_CONCURRENCY")
    return tuple(
        item for item in os.environ.items() if item[0].startswith(PREFIX) or item[0] in names
    )


class Environment(PydanticBaseSettingsSource):
    """Reads fields from variables: prefixed or bare names, or the file that ``NAME_FILE`` names.

    Args:
        settings_cls: the class whose fields are read.
        environ: variables by name. Default: those of the process.

    Attributes:
        sources: by field, the variable or file its value came from.
        problems: by field, a line for what could not be read.
        files: by field, the ``_FILE`` variable it came by, and the path in it.
    """

    def __init__(
        self, settings_cls: type[BaseSettings], environ: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(settings_cls)
        self._environ = os.environ if environ is None else environ
        self._origins = _origins if environ is None else {}
        self.sources: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        self.files: dict[str, tuple[str, str]] = {}

    def __call__(self) -> dict[str, Any]:
        """Every field that the environment sets, as text, or as a tuple of texts for a list."""
        values = {}
        for name, field in self.settings_cls.model_fields.items():
            value, _, _ = self.get_field_value(field, name)
            if value is not None:
                values[name] = value
        return values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of one field, ``None`` where nothing sets it."""
        for variable in variable_names(field_name):
            try:
                text, source, path = self._read(variable)
            except ValueError as error:
                self.problems[field_name] = str(error)
                break
            if text:
                self.sources[field_name] = source
                if path:
                    self.files[field_name] = (variable, path)
                return _split(field, text), field_name, False
        return None, field_name, False

    def _read(self, variable: str) -> tuple[str, str, str]:
        text = self._environ.get(variable, "").strip()
        path = self._environ.get(f"{variable}_FILE", "").strip()
        if text and path:
            raise ValueError(f"{variable} and {variable}_FILE are both set: remove one of them")
        origin = self._origins.get(f"{variable}_FILE" if path else variable)
        place = [path] if path else []
        place += [origin] if origin else []
        source = f" ({', '.join(place)})" if place else ""
        if path:
            return file_text(variable, path), f"{variable}_FILE{source}", path
        return text, f"{variable}{source}", ""

    def unknown(self) -> Iterator[str]:
        """A line for each name that looks like ours and is none, with the nearest that is."""
        known = {name for field in self.settings_cls.model_fields for name in variable_names(field)}
        for name in self._environ:
            bare = name.removesuffix("_FILE")
            upper = name.upper()
            if upper.startswith(PREFIX) and bare not in known and not upper.startswith(NOT_OURS):
                near = _nearest(upper.removesuffix("_FILE"), known)
                hint = f"; did you mean {near}{upper[len(bare) :]}?" if near else ""
                yield f"{name} is no variable of holdfast and is ignored{hint}"


def file_text(variable: str, path: str) -> str:
    """Return what the file at *path* says, which ``variable_FILE`` names.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        # A byte-order mark is what some editors put before a pasted secret.
        return Path(path).read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise ValueError(f"{variable}_FILE={path}: cannot be read: {reason}") from error


def _split(field: FieldInfo, text: str) -> Any:
    if get_origin(field.annotation) is not tuple:
        return text
    return tuple(part for each in text.split(",") if (part := each.strip()))


def _nearest(name: str, known: set[str]) -> str | None:
    # Without the prefix, which would make every name near to every other.
    bare = [each.removeprefix(PREFIX) for each in known if each.startswith(PREFIX)]
    near = difflib.get_close_matches(name.removeprefix(PREFIX), sorted(bare), n=1)
    return PREFIX + near[0] if near else None


def fill_environment(values: Mapping[str, str | None], origin: str, *, over: bool = False) -> None:
    """Set what of *values* the environment does not say yet, for this process and its children.

    Args:
        values: by variable. One that is set, itself or by its ``_FILE``, is kept.
        over: it is not kept: somebody has just said otherwise.
        origin: what :meth:`~holdfast.settings.Settings.source` tells of them, such as ``.env``.
    """
    for name, value in values.items():
        twin = name.removesuffix("_FILE") if name.endswith("_FILE") else f"{name}_FILE"
        said = os.environ.get(name, "").strip() or os.environ.get(twin, "").strip()
        if value is not None and (over or not said):
            os.environ[name] = value
            _origins[name] = origin


def workers_announced() -> int:
    """How many worker processes the server was told to run (``WEB_CONCURRENCY``); 1 if unsaid."""
    text = os.environ.get("WEB_CONCURRENCY", "").strip()
    return int(text) if text.isdecimal() else 1

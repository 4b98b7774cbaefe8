"""What people are told about settings, in words that never hold a secret.

Pure: the rows of the documentation, values as they may be shown, and errors as lines.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import SecretStr

from holdfast.settings.kinds import Allowed
from holdfast.settings.table import BARE_NAMES, PREFIX, SECRETS, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import ValidationError
    from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Variable:
    """One row of the table, as text for people.

    Attributes:
        name: with the prefix.
        alias: the bare name accepted too, or ``None``.
        default: as it would be written; ``none`` for nothing, ``empty`` for empty text.
        allowed: what it may hold.
        meaning: what it does, with units.
        example: a value other than the default.
        secret: whether its value is never shown.
    """

    name: str
    alias: str | None
    default: str
    allowed: str
    meaning: str
    example: str
    secret: bool

    @property
    def field(self) -> str:
        """The name of the field of :class:`~holdfast.settings.Settings`."""
        return self.name.removeprefix(PREFIX).lower()


def variables() -> list[Variable]:
    """Every row, in the order of the table."""
    return [
        Variable(
            name=PREFIX + name.upper(),
            alias=BARE_NAMES.get(name),
            default=shown(info.default),
            allowed=allowed(info),
            meaning=info.description or "",
            example=str((info.examples or [""])[0]),
            secret=name in SECRETS,
        )
        for name, info in Table.model_fields.items()
    ]


def shown(value: object) -> str:
    """A value as it would be written in the environment; ``***`` for secrets."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, tuple):
        return ",".join(map(shown, value)) if value else "none"
    return "none" if value is None else "empty" if value == "" else str(value)


def allowed(info: FieldInfo) -> str:
    """What a field may hold, in words."""
    if get_origin(info.annotation) is Literal:
        *most, last = get_args(info.annotation)
        return f"{', '.join(most)} or {last}"
    return next((each.words for each in info.metadata if isinstance(each, Allowed)), "text")


def problems(
    error: ValidationError, given: Mapping[str, Any], sources: Mapping[str, str]
) -> dict[str, str]:
    """A line for each field that *error* is about, by field."""
    found: dict[str, str] = {}
    # Without input: a failing secret's is its plain text.
    for each in error.errors(include_input=False, include_url=False):
        name = str(each["loc"][0])
        if name not in Table.model_fields:
            near = difflib.get_close_matches(name, Table.model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            found[name] = f"{name}: there is no such setting{hint}"
            continue
        context = each.get("ctx", {})
        reason = str(context.get("error", "")) or f"must be {allowed(Table.model_fields[name])}"
        # The most that is taken is told to whoever exceeds it, and clutters no table.
        most = str(context.get("le", ""))
        reason += f", at most {most}" if most not in reason else ""
        found[name] = f"{_given(name, given[name], sources[name])}: {reason}"
    return found


def _given(name: str, value: object, source: str) -> str:
    place = name if source == "argument" else source
    if name in SECRETS:
        return f"{place} (not shown)"
    if isinstance(value, tuple) and source != "argument":
        value = ",".join(value)
    # Whatever was pasted into the wrong variable: the login of a URL is nobody's to read.
    return f"{place}={re.sub(r'://.*@', '://***@', repr(value))[:100]}"


def told(lines: Sequence[str]) -> str:
    """One message for all *lines*."""
    if len(lines) == 1:
        return lines[0]
    return "\n".join([f"{len(lines)} settings cannot work:", *(f"  {line}" for line in lines)])

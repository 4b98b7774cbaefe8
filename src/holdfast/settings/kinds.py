"""The kinds of value a variable may hold: how text becomes one, and what is refused.

Pure: nothing here knows a variable's name, or where a value came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from holdfast.settings.redis_url import parse


@dataclass(frozen=True)
class Allowed:
    """What a variable may hold, in words: for errors and for the documentation."""

    words: str


def _matching(pattern: str) -> Any:
    """A constraint: the whole text matches *pattern*."""
    return Field(pattern=f"^(?:{pattern})$")


def _comma_list(value: object) -> object:
    """Text is split at commas, blanks dropped; other sequences are taken as they are."""
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        texts = (each.strip() if isinstance(each, str) else each for each in value)
        return tuple(each for each in texts if each != "")
    return () if value is None else value


def _keys(value: object) -> object:
    """One key or a sequence of them. A key may hold commas: only the environment is split."""
    given = (value,) if isinstance(value, str | bytes | SecretStr) else value
    if isinstance(given, Iterable):
        given = tuple(given)
        if any(_plain(each) in ("", b"") for each in given):
            raise ValueError("must not hold an empty key")
    return () if given is None else given


def _plain(value: object) -> object:
    """The text within a secret; anything else as it is."""
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _lower(value: object) -> object:
    """Text in lower case; anything else as it is."""
    return value.lower() if isinstance(value, str) else value


def _prefix(path: str) -> str:
    return path.rstrip("/") or "/"


def _origin(value: object) -> object:
    # Copied from an address bar it ends in a slash; browsers send it without, in lower case.
    return value.lower().removesuffix("/") if isinstance(value, str) else value


def _url(value: object) -> object:
    text = _plain(value)
    if not isinstance(text, str):
        return value
    text = text.strip()
    if text.lower() in {"", "off"}:
        return None
    parse(text)
    return text


# About 30 years: more is an accident, and overflows the timers of some platforms.
_SECONDS_MAX = 10**9
_COUNT_MAX = 10**15
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_IMPORT = rf"{_NAME}(\.{_NAME})*:{_NAME}(\.{_NAME})*"
_NO_BRACES = r"[^{}\x00-\x1f\x7f]*"

Seconds = Annotated[int, Field(ge=0, le=_SECONDS_MAX), Allowed("whole seconds, 0 or more")]
PositiveSeconds = Annotated[int, Field(ge=1, le=_SECONDS_MAX), Allowed("whole seconds, 1 or more")]
Duration = Annotated[
    float, Field(ge=0, le=_SECONDS_MAX, allow_inf_nan=False), Allowed("seconds, 0 or more")
]
PositiveDuration = Annotated[
    float, Field(gt=0, le=_SECONDS_MAX, allow_inf_nan=False), Allowed("seconds, more than 0")
]
Count = Annotated[int, Field(ge=0, le=_COUNT_MAX), Allowed("a whole number, 0 or more")]
PositiveCount = Annotated[int, Field(ge=1, le=_COUNT_MAX), Allowed("a whole number, 1 or more")]
Percent = Annotated[int, Field(ge=0, le=100), Allowed("a whole number from 0 to 100")]
Flag = Annotated[bool, Allowed("true or false")]

SessionStore = Annotated[
    str,
    _matching(rf"auto|memory|redis|{_IMPORT}"),
    Allowed("auto, memory, redis or package.module:factory"),
]
OnOutage = Annotated[Literal["local", "readonly", "closed"], BeforeValidator(_lower)]
SameSite = Annotated[Literal["lax", "strict", "none"], BeforeValidator(_lower)]
Access = Annotated[
    str,
    _matching(rf"token|session|open|{_IMPORT}"),
    Allowed("token, session, open or package.module:callable"),
]
_Package = Annotated[
    Literal["starlette", "starsessions", "flask-session", "django"], BeforeValidator(_lower)
]
Imports = Annotated[
    tuple[_Package, ...],
    BeforeValidator(_comma_list),
    Allowed("a comma-separated list of starlette, starsessions, flask-session, django"),
]

Keys = Annotated[
    tuple[SecretStr, ...],
    BeforeValidator(_keys),
    Allowed("one or more, comma-separated, newest first"),
]
Names = Annotated[tuple[str, ...], BeforeValidator(_comma_list), Allowed("a comma-separated list")]
RedisUrl = Annotated[
    SecretStr | None,
    BeforeValidator(_url),
    Allowed(
        "off, redis://host:6379/0, rediss://host:6379/0, unix:///path, "
        "redis+sentinel://host:26379,host:26379/service/0 or redis+cluster://host:6379,host:6379"
    ),
]

KeyPrefix = Annotated[
    str, _matching(_NO_BRACES), Allowed("text without braces and control characters")
]
Template = Annotated[
    str,
    _matching(rf"{_NO_BRACES}\{{run_id\}}{_NO_BRACES}"),
    Allowed("text with {run_id} exactly once and no other braces"),
]

# RFC 6265, section 4.1.1: a name is a token; Path and Domain are ASCII without controls and ";".
CookieName = Annotated[
    str,
    _matching(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"),
    Allowed("letters, digits and !#$%&'*+-.^_`|~ (a token of RFC 6265)"),
]
CookiePath = Annotated[
    str,
    _matching(r"/[!-:<-~]*"),
    Allowed("a path that begins with /, in ASCII without spaces and ;"),
]
Domain = Annotated[
    str | None, _matching(r"[A-Za-z0-9._-]+"), Allowed("a domain name, as example.com")
]
Mount = Annotated[
    str,
    _matching(r"/+[!-\"$-.0-:<->@-z|~][!-\"$-:<->@-z|~]*"),
    AfterValidator(_prefix),
    Allowed("a path that begins with / and is not / alone, without ; ? # and braces"),
]
Paths = Annotated[
    tuple[Annotated[str, _matching(r"/[^?#\x00-\x20\x7f]*"), AfterValidator(_prefix)], ...],
    BeforeValidator(_comma_list),
    Allowed("comma-separated paths, each beginning with /"),
]
Origins = Annotated[
    tuple[
        Annotated[
            str,
            BeforeValidator(_origin),
            _matching(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\s,*]+"),
        ],
        ...,
    ],
    BeforeValidator(_comma_list),
    Allowed("* or comma-separated origins, as https://app.example.com"),
]
Import = Annotated[str | None, _matching(_IMPORT), Allowed("package.module:name")]

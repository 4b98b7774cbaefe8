"""Every variable of holdfast, what it may hold, and the one place that reads the environment.

A variable is a field of :class:`Settings`, nothing else: its name, type, default and words are
written once, here, and the documentation is made from them. What a value does never belongs here.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from holdfast.errors import ConfigurationError
from holdfast.redis_url import RedisTarget
from holdfast.redis_url import parse as parse_redis_url

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

PREFIX = "HOLDFAST_"
#: Names accepted without the prefix, because hosting platforms set or people know them.
BARE_NAMES = {"redis_url": "REDIS_URL", "stream_enabled": "REDIS_STREAM_ENABLED"}
#: Set by Kubernetes for a service called "holdfast", and by holdfast's own tests.
NOT_OURS = ("HOLDFAST_PORT", "HOLDFAST_SERVICE_", "HOLDFAST_TEST_")
MIN_KEY_LENGTH = 16
MAKE_A_KEY = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'

logger = logging.getLogger("holdfast")

# --- what a value may be -------------------------------------------------------------------------


@dataclass(frozen=True)
class Allowed:
    """What a variable may hold, in words: for errors and for the documentation."""

    words: str


def _comma_list(value: object) -> object:
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        texts = (each.strip() if isinstance(each, str) else each for each in value)
        return tuple(each for each in texts if each != "")
    return () if value is None else value


def _keys(value: object) -> object:
    # A key given in code may hold commas, so only the environment is split.
    given = (value,) if isinstance(value, (str, bytes, SecretStr)) else value
    if isinstance(given, Iterable):
        given = tuple(given)
        if any(str(_plain(each)) == "" for each in given):
            raise ValueError("must not hold an empty key")
    return () if given is None else given


def _plain(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _matching(pattern: str) -> Any:
    return Field(pattern=f"^(?:{pattern})$")


def _prefix(path: str) -> str:
    return path.rstrip("/") or "/"


def _origin(value: object) -> object:
    # Copied from an address bar it ends in a slash; browsers send it without, in lower case.
    return value.lower().removesuffix("/") if isinstance(value, str) else value


def _url(value: object) -> object:
    text = _plain(value)
    if not isinstance(text, str):
        return value
    if text.strip().lower() in {"", "off"}:
        return None
    parse_redis_url(text.strip())
    return text.strip()


# A week too long is a wish, ten thousand years an accident; and timers overflow.
_SECONDS_MAX = 10**9
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_IMPORT = rf"{_NAME}(\.{_NAME})*:{_NAME}(\.{_NAME})*"
_PATH = r"/[^;\x00-\x20\x7f-\U0010ffff]*"
_TEMPLATE = r"[^{}\x00-\x1f\x7f]*\{run_id\}[^{}\x00-\x1f\x7f]*"

Seconds = Annotated[int, Field(ge=0, le=_SECONDS_MAX), Allowed("whole seconds, 0 or more")]
Duration = Annotated[
    float, Field(ge=0, le=_SECONDS_MAX, allow_inf_nan=False), Allowed("seconds, 0 or more")
]
PositiveDuration = Annotated[
    float, Field(gt=0, le=_SECONDS_MAX, allow_inf_nan=False), Allowed("seconds, more than 0")
]
Count = Annotated[int, Field(ge=0, le=10**15), Allowed("a whole number, 0 or more")]
PositiveCount = Annotated[int, Field(ge=1, le=10**15), Allowed("a whole number, 1 or more")]
Percent = Annotated[int, Field(ge=0, le=100), Allowed("a whole number from 0 to 100")]
Flag = Annotated[bool, BeforeValidator(_lower), Allowed("true or false")]
Keys = Annotated[
    tuple[SecretStr, ...],
    BeforeValidator(_keys),
    Allowed("one or more keys, comma-separated, newest first"),
]
Names = Annotated[tuple[str, ...], BeforeValidator(_comma_list), Allowed("a comma-separated list")]
PathPrefix = Annotated[str, _matching(r"/[^?#\x00-\x20\x7f]*"), AfterValidator(_prefix)]
Paths = Annotated[
    tuple[PathPrefix, ...],
    BeforeValidator(_comma_list),
    Allowed("comma-separated paths, each beginning with /"),
]
Origin = Annotated[
    str, _matching(r"\*|[A-Za-z][A-Za-z0-9+.-]*://[^/?#@\s,*]+"), BeforeValidator(_origin)
]
Origins = Annotated[
    tuple[Origin, ...],
    BeforeValidator(_comma_list),
    Allowed("* or comma-separated origins, as https://app.example.com"),
]
Template = Annotated[
    str, _matching(_TEMPLATE), Allowed("text with {run_id} exactly once and no other braces")
]
RedisUrl = Annotated[
    SecretStr | None,
    BeforeValidator(_url),
    Allowed(
        "off, redis://host:6379/0, rediss://…, unix:///path, "
        "redis+sentinel://host:26379,host:26379/service/0 or redis+cluster://host:6379,host:6379"
    ),
]


# --- the table -----------------------------------------------------------------------------------


class Settings(BaseSettings):
    """The configuration of holdfast: the environment, with arguments in place of what they name.

    Immutable, hashable, equal by value. No ``repr``, dump or error shows a secret.

    Args:
        environ: what to read in place of ``os.environ``.
        **arguments: values by field name; each beats the environment.

    Raises:
        ConfigurationError: every value that cannot work, each with what is allowed.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    secret_key: Keys = Field(
        (),
        description="Signs cookies and tokens. Newest first: the first signs, all verify; the first"
        " has at least 16 characters. Required with Redis by whatever signs; in memory "
        "a random one is made per process, with a warning.",
        examples=["kX3vJ0mU1b9cQ7yZ5tR2wN8sL4pA6dFg"],
    )
    redis_url: RedisUrl = Field(
        None,
        description="Where Redis is. Not set: everything is kept in the memory of one process. "
        "`off` says so even where `REDIS_URL` is set.",
        examples=["redis://localhost:6379/0"],
    )
    redis_timeout: PositiveDuration = Field(
        0.25,
        description="Seconds for one operation, connecting and every reply included, before the "
        "request goes on without Redis.",
        examples=["0.5"],
    )
    redis_required: Flag = Field(
        False, description="Refuse to start without Redis.", examples=["true"]
    )
    redis_wait: Annotated[Count, Field(le=1000)] = Field(
        0,
        description="Replicas that must acknowledge a session write, a logout or the end of a run.",
        examples=["1"],
    )
    key_prefix: Annotated[
        str, _matching(r"[^{}\x00-\x1f\x7f]*"), Allowed("text without braces")
    ] = Field(
        "",
        description="Put before every key, so that several apps can share one Redis.",
        examples=["shop:"],
    )

    session_store: Annotated[
        str,
        _matching(rf"auto|memory|redis|{_IMPORT}"),
        Allowed("auto, memory, redis or package.module:factory"),
    ] = Field(
        "auto",
        description="Where sessions are kept. `auto`: Redis where a URL is set, else memory.",
        examples=["redis"],
    )
    session_on_outage: Annotated[
        Literal["local", "readonly", "closed"], BeforeValidator(_lower)
    ] = Field(
        "local",
        description="While Redis is away: `local` falls back to memory, `readonly` serves what is "
        "known, `closed` answers 503 to whoever needs a session.",
        examples=["readonly"],
    )
    session_cookie: Annotated[
        str,
        _matching(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"),
        Allowed("letters, digits and !#$%&'*+-.^_`|~ (a token of RFC 6265)"),
    ] = Field(
        "session",
        description="Name of the cookie; where this is not set, a framework's own name wins.",
        examples=["__Host-session"],
    )
    session_path: Annotated[
        str, _matching(_PATH), Allowed("a path that begins with /, ASCII, without ; and spaces")
    ] = Field("/", description="The cookie's `Path`.", examples=["/app"])
    session_domain: Annotated[
        str | None,
        _matching(r"[A-Za-z0-9._-]+"),
        Allowed("a domain name, as example.com"),
    ] = Field(
        None,
        description="The cookie's `Domain`. Not set: only the very host that set it gets it back.",
        examples=["example.com"],
    )
    session_same_site: Annotated[Literal["lax", "strict", "none"], BeforeValidator(_lower)] = Field(
        "lax", description="The cookie's `SameSite`.", examples=["strict"]
    )
    session_https_only: Flag = Field(
        False,
        description="The cookie's `Secure`. Turn it on wherever the site is served over HTTPS.",
        examples=["true"],
    )
    session_partitioned: Flag = Field(
        False, description="The cookie's `Partitioned` (CHIPS).", examples=["true"]
    )
    session_max_age: Seconds = Field(
        1209600,
        description="Seconds a session lives at most, counted from its creation or its last new id;"
        " also the cookie's `Max-Age`. 0: a cookie without `Max-Age`, kept 1209600 s by"
        " the server.",
        examples=["86400"],
    )
    session_idle_timeout: Seconds = Field(
        0,
        description="Seconds without a request after which a session ends. 0: off.",
        examples=["1800"],
    )
    session_touch_interval: Seconds = Field(
        60,
        description="At most one expiry write per session in this many seconds; in effect the "
        "lesser of this and a quarter of the idle timeout.",
        examples=["30"],
    )
    session_rotate_after: Seconds = Field(
        0,
        description="Seconds after which the secret of a session is renewed; the old one is good "
        "for 30 s more. 0: off.",
        examples=["3600"],
    )
    session_max_bytes: PositiveCount = Field(
        65536,
        description="A larger session is an error at the write, and the old data is kept.",
        examples=["16384"],
    )
    session_user_key: str | None = Field(
        None,
        description="The session key whose value names the user. Not set: the first present of "
        "`_auth_user_id` (Django), `_user_id` (Flask-Login) and `user_id`.",
        examples=["account"],
    )
    session_fresh_keys: Names = Field(
        (),
        description="Session keys that read as missing while a session is served from a stale "
        "copy.",
        examples=["is_admin,balance"],
    )
    session_encryption_key: Keys = Field(
        (),
        description="Encrypts session data at rest (extra `crypto`). Newest first.",
        examples=["qL2dX8nB5vR0yT7mW4cF1hJ9kP3sZ6aG"],
    )
    session_encryption_strict: Flag = Field(
        False,
        description="Refuse sessions stored in plain text, which are otherwise encrypted at their "
        "next write.",
        examples=["true"],
    )
    session_import: Annotated[
        tuple[
            Annotated[
                Literal["starlette", "starsessions", "flask-session", "django"],
                BeforeValidator(_lower),
            ],
            ...,
        ],
        BeforeValidator(_comma_list),
        Allowed("a comma-separated list of starlette, starsessions, flask-session, django"),
    ] = Field(
        (),
        description="Other packages whose sessions are read, so that moving over logs nobody out.",
        examples=["starlette"],
    )
    session_index_address: Flag = Field(
        False,
        description="Keep the client's address in the index of a user's sessions.",
        examples=["true"],
    )
    session_audit_log: str | None = Field(
        None,
        description="A file, or `-` for standard output, that gets the life of every session as "
        "JSON lines.",
        examples=["/var/log/app/sessions.jsonl"],
    )
    session_exclude: Paths = Field(
        (),
        description="Path prefixes that never load a session: it reads as empty there, and a write "
        "raises.",
        examples=["/static,/healthz"],
    )

    stream_enabled: Flag = Field(
        True,
        description="false: new runs use Pub/Sub only and keep no history.",
        examples=["false"],
    )
    stream_rollout: Percent = Field(
        100,
        description="Percent of new runs that use Streams, by a stable hash of the run id; the rest"
        " use Pub/Sub.",
        examples=["10"],
    )
    stream_channel: Template = Field(
        "run:{run_id}",
        description="The Pub/Sub channel of a run.",
        examples=["events:{run_id}"],
    )
    stream_dual_write: Flag = Field(
        False,
        description="Publish Streams runs on the Pub/Sub channel too, for subscribers not yet "
        "moved.",
        examples=["true"],
    )
    stream_mount: Annotated[
        str,
        _matching(r"/[^;\x00-\x20\x7f-\U0010ffff{}?#]*[^;\x00-\x20\x7f-\U0010ffff{}?#/]"),
        Allowed("a path that begins with / and is not / alone"),
    ] = Field(
        "/streams",
        description="Where `holdfast serve` and `Holdfast(app)` mount the streams.",
        examples=["/events"],
    )
    stream_key: Template = Field(
        "run:{run_id}:events",
        description="The key of a run's stream in Redis.",
        examples=["events:{run_id}"],
    )
    stream_maxlen: PositiveCount = Field(
        10000,
        description="About how many events of a run are kept (`MAXLEN ~`); the oldest go first.",
        examples=["50000"],
    )
    stream_max_run_bytes: PositiveCount = Field(
        134217728,
        description="About how many bytes of a run are kept in Redis; the oldest events go first, "
        "and readers are told of the gap.",
        examples=["16777216"],
    )
    stream_max_event_bytes: PositiveCount = Field(
        1048576,
        description="The longest data of one event: UTF-8 bytes as compact JSON. A larger event is "
        "refused before any I/O.",
        examples=["262144"],
    )
    stream_retention: Seconds = Field(
        86400,
        description="Seconds the events of a run are kept after its end, or after its last event if"
        " it never ends.",
        examples=["604800"],
    )
    stream_wait: Duration = Field(
        15,
        description="Seconds a reader of a run that nobody has started yet is kept waiting before "
        "404. `?wait=` overrides it; REST never waits.",
        examples=["5"],
    )
    stream_lease: Duration = Field(
        30,
        description="Seconds after which a run whose publisher died is ended with `run_lost`. 0: "
        "off.",
        examples=["60"],
    )
    stream_journal: Count = Field(
        10000,
        description="Events kept in memory per process during an outage, to be written on recovery.",
        examples=["50000"],
    )
    stream_heartbeat: PositiveDuration = Field(
        15, description="Seconds between keep-alives of an open stream.", examples=["5"]
    )
    stream_retry: Duration = Field(
        2,
        description="Seconds after which clients are told to reconnect, jittered per client.",
        examples=["5"],
    )
    stream_access: Annotated[
        str,
        _matching(rf"token|session|open|{_IMPORT}"),
        Allowed("token, session, open or package.module:callable"),
    ] = Field(
        "token",
        description="Who may read a run: whoever holds a `token` for it, the owner's `session`, "
        "everyone (`open`), or whom your callable lets.",
        examples=["session"],
    )
    stream_allowed_origins: Origins = Field(
        (),
        description="Origins that may use the streams from another site, for CORS and WebSockets. "
        "Not set: the same origin. `*` allows no credentials.",
        examples=["https://app.example.com"],
    )
    stream_publish_token: Keys = Field(
        (),
        description="Bearer tokens that open publishing over HTTP, never reading or stopping. Not "
        "set: off.",
        examples=["pT5kW9xB2nV7cM4zQ8rY1jH6"],
    )
    stream_max_subscribers: PositiveCount = Field(
        10000,
        description="Open streams per process; whoever comes beyond is told to come back later.",
        examples=["2000"],
    )
    stream_capture: Paths = Field(
        (),
        description="Path prefixes whose `text/event-stream` answers become resumable runs.",
        examples=["/chat,/agent/stream"],
    )
    stream_capture_abandon: Duration = Field(
        0,
        description="Seconds without a reader after which a captured answer is cancelled. 0: never.",
        examples=["300"],
    )
    stream_handle_signals: Flag = Field(
        True,
        description="Chain SIGTERM and SIGINT, so that streams end cleanly at shutdown.",
        examples=["false"],
    )

    app: Annotated[str | None, _matching(_IMPORT), Allowed("package.module:app")] = Field(
        None,
        description="The app that `holdfast.asgi:app` and `holdfast.wsgi:app` wrap.",
        examples=["shop.main:app"],
    )

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, *, environ: Mapping[str, str] | None = None, **arguments: Any) -> None:
        environment = Environment(type(self), os.environ if environ is None else environ)
        given = environment() | arguments
        sources = environment.sources | dict.fromkeys(arguments, "argument")
        problems = self._fill(given, sources, environment.problems)
        if problems:
            raise ConfigurationError(_told(problems))
        self._sources = {name: sources[name] for name in given}
        environment.warn_of_unknown()
        self._warn()

    def _fill(
        self, given: Mapping[str, Any], sources: Mapping[str, str], problems: dict[str, str]
    ) -> list[str]:
        """Take what is *given*; return a line for each value that cannot work, clashes included."""
        wrong = dict(problems)
        try:
            super().__init__(**given)
        except ValidationError as error:
            wrong |= _field_problems(type(self), error, given, sources)
            # Once more without them, so that clashes among the others are told in the same breath.
            super().__init__(**{name: given[name] for name in given if name not in wrong})
        clashes = [
            clash.line for clash in clashes_in(self, sources) if not clash.fields & wrong.keys()
        ]
        return [*wrong.values(), *clashes]

    def _warn(self) -> None:
        if self.secret_key and len(self.secret_key[0].get_secret_value()) < MIN_KEY_LENGTH:
            _warn_once(f"the secret key is short: use at least {MIN_KEY_LENGTH} random characters")
        if self.redis_target and self.redis_target.ignored:
            names = ", ".join(self.redis_target.ignored)
            _warn_once(f"{self.source('redis_url')}: these options of the URL are ignored: {names}")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``__init__`` hands over: it has merged :class:`Environment` and arguments."""
        return (init_settings,)

    # --- asking -------------------------------------------------------------------------------

    def source(self, name: str) -> str:
        """Where field *name* comes from.

        Returns:
            ``default``, ``argument``, a variable (``HOLDFAST_REDIS_URL``, ``REDIS_URL``) or a
            variable and its file (``HOLDFAST_REDIS_URL_FILE (/run/secrets/redis_url)``).
        """
        return self._sources.get(name, "default")

    def is_set(self, name: str) -> bool:
        """Whether anybody set field *name*, in the environment or in code."""
        return name in self._sources

    @property
    def redis_target(self) -> RedisTarget | None:
        """The Redis URL taken apart, or ``None`` where no Redis is configured."""
        return parse_redis_url(self.redis_url.get_secret_value()) if self.redis_url else None

    @property
    def redis_url_masked(self) -> str | None:
        """The Redis URL for people: no password, no options."""
        target = self.redis_target
        return target.masked if target else None

    def signing_keys(self) -> tuple[str, ...]:
        """The keys that sign and verify, newest first.

        Without Redis and without a key: one random key per process, the same for every caller and
        for children forked afterwards; the log says once that a restart makes it void.

        Raises:
            ConfigurationError: Redis is set, so other processes must be able to verify, but no key.
        """
        if self.secret_key:
            return tuple(key.get_secret_value() for key in self.secret_key)
        if self.redis_url is not None:
            raise ConfigurationError(
                "HOLDFAST_SECRET_KEY is not set: with Redis, every process must sign with the same "
                f"key. Make one, keep it secret and set it everywhere: {MAKE_A_KEY}"
            )
        return (_key_of_this_process(),)

    def override(self, **arguments: Any) -> Settings:
        """These settings with *arguments* in place of what they name; checked as a whole.

        Raises:
            ConfigurationError: as the constructor.
        """
        kept = {name: getattr(self, name) for name in self._sources if name not in arguments}
        return _rebuilt(kept, self._sources, arguments)

    @classmethod
    def table(cls) -> list[Variable]:
        """Every variable, in the order of the documentation."""
        return [_variable(name, info) for name, info in cls.model_fields.items()]

    # --- being a value ------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        # Not pydantic's, which compares private attributes too: a value's source is no part of it.
        return isinstance(other, Settings) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        shown = (f"{name}={self.shown(name)}" for name in type(self).model_fields)
        return (
            f"Settings({', '.join(each for each in shown if each.split('=')[0] in self._sources)})"
        )

    __str__ = __repr__

    def shown(self, name: str) -> str:
        """The value of field *name* as a person may see it: secrets masked."""
        if name == "redis_url":
            return self.redis_url_masked or "none"
        return _shown(getattr(self, name))

    def __reduce__(self) -> Any:
        # A pickle lies in queues and on disks; SecretStr would put its secret there in plain text.
        secret = [name for name in self._sources if name in _SECRET_FIELDS]
        if secret:
            raise TypeError(
                f"Settings with secrets ({', '.join(secret)}) are not pickled: "
                "make Settings() where they are needed, from that process's environment"
            )
        return _rebuilt, ({name: getattr(self, name) for name in self._sources}, self._sources, {})


_SECRET_FIELDS = frozenset(
    {"secret_key", "redis_url", "session_encryption_key", "stream_publish_token"}
)


def _rebuilt(
    kept: Mapping[str, Any], sources: Mapping[str, str], arguments: Mapping[str, Any]
) -> Settings:
    settings = Settings(environ={}, **kept, **arguments)
    settings._sources.update({name: sources[name] for name in kept})  # noqa: SLF001 - our own
    return settings


# --- the environment -----------------------------------------------------------------------------


class Environment(PydanticBaseSettingsSource):
    """Reads fields from variables: prefixed or bare names, or a file that ``NAME_FILE`` points to.

    Attributes:
        sources: by field, the variable or file it came from.
        problems: by field, a line for what could not be read.
    """

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._environ = environ
        self.sources: dict[str, str] = {}
        self.problems: dict[str, str] = {}

    def __call__(self) -> dict[str, Any]:
        values = {}
        for name, field in self.settings_cls.model_fields.items():
            value, _, _ = self.get_field_value(field, name)
            if value is not None:
                values[name] = value
        return values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of one field, ``None`` where nothing sets it. The prefixed name goes first."""
        for variable in _variables(field_name):
            try:
                text, source = self._read(variable)
            except ValueError as error:
                self.problems[field_name] = f"{variable}: {error}"
                break
            if text:
                self.sources[field_name] = source
                return _split(field, text), field_name, False
        return None, field_name, False

    def _read(self, variable: str) -> tuple[str, str]:
        text = self._environ.get(variable, "").strip()
        path = self._environ.get(f"{variable}_FILE", "").strip()
        if not path:
            origin = _origins.get(variable)
            return text, f"{variable} ({origin})" if origin else variable
        if text:
            raise ValueError(f"{variable} and {variable}_FILE are both set: remove one of them")
        try:
            # A byte-order mark is what some editors put before a pasted secret.
            text = Path(path).read_text(encoding="utf-8-sig").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ValueError(f"{variable}_FILE={path}: cannot be read: {reason}") from error
        return text, f"{variable}_FILE ({path})"

    def warn_of_unknown(self) -> None:
        """Log each name that looks like one of ours and is none, with the nearest that is."""
        known = _known_names()
        for name in self._environ:
            upper = name.upper()
            if upper.startswith(PREFIX) and name not in known and not upper.startswith(NOT_OURS):
                near = difflib.get_close_matches(upper, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                _warn_once(f"{name} is no variable of holdfast{hint}")


def fill_environment(values: Mapping[str, str], origin: str) -> None:
    """Set what of *values* the environment does not say, for this process and its children.

    Args:
        values: by variable. A name that is set, also by its ``_FILE`` or file's own name, is kept.
        origin: what :meth:`Settings.source` tells about them, such as ``.env``.
    """
    for name, value in values.items():
        twin = name.removesuffix("_FILE") if name.endswith("_FILE") else f"{name}_FILE"
        if not os.environ.get(name, "").strip() and not os.environ.get(twin, "").strip():
            os.environ[name] = value
            _origins[name] = origin


#: Variables that :func:`fill_environment` set, and from where.
_origins: dict[str, str] = {}


def _variables(field: str) -> tuple[str, ...]:
    """The names of a field's variable; each beats those after it."""
    own = PREFIX + field.upper()
    return (own, BARE_NAMES[field]) if field in BARE_NAMES else (own,)


def _known_names() -> list[str]:
    names = [name for field in Settings.model_fields for name in _variables(field)]
    return [*names, *(f"{name}_FILE" for name in names)]


def _split(field: FieldInfo, text: str) -> Any:
    if get_origin(field.annotation) is not tuple:
        return text
    return tuple(part for each in text.split(",") if (part := each.strip()))


# --- rules across fields -------------------------------------------------------------------------


@dataclass(frozen=True)
class Clash:
    """Values that are each right and cannot work together."""

    fields: frozenset[str]
    line: str


def clashes_in(settings: Settings, sources: Mapping[str, str]) -> Iterator[Clash]:
    """Every combination in *settings* that cannot work."""
    yield from _cookie_clashes(settings)
    if settings.redis_url is None and settings.session_store == "redis":
        yield _clash(
            "session_store redis_url", "HOLDFAST_SESSION_STORE=redis needs HOLDFAST_REDIS_URL"
        )
    if settings.redis_url is None and settings.redis_required:
        yield _clash(
            "redis_required redis_url", "HOLDFAST_REDIS_REQUIRED=true needs HOLDFAST_REDIS_URL"
        )
    if settings.session_encryption_strict and not settings.session_encryption_key:
        yield _clash(
            "session_encryption_strict session_encryption_key",
            "HOLDFAST_SESSION_ENCRYPTION_STRICT=true needs HOLDFAST_SESSION_ENCRYPTION_KEY",
        )
    # In code a short key may be a test's; in the environment it is a deployment's.
    source = sources.get("secret_key", "default")
    short = settings.secret_key and len(_plain_key(settings)) < MIN_KEY_LENGTH
    if short and source != "argument":
        yield _clash(
            "secret_key",
            f"{source} (not shown): the first key must have at least {MIN_KEY_LENGTH} characters; "
            f"make one: {MAKE_A_KEY}",
        )


def _cookie_clashes(settings: Settings) -> Iterator[Clash]:
    # RFC 6265bis, sections 4.1.3 and 5.6: browsers drop such a cookie without a word.
    name, secure = settings.session_cookie, settings.session_https_only
    shown = f"HOLDFAST_SESSION_COOKIE={name}"
    needs = "needs HOLDFAST_SESSION_HTTPS_ONLY=true"
    prefix = name.lower()
    if prefix.startswith(("__host-", "__secure-")) and not secure:
        yield _clash("session_cookie session_https_only", f"{shown} {needs}")
    if prefix.startswith("__host-") and settings.session_path != "/":
        yield _clash("session_cookie session_path", f"{shown} needs HOLDFAST_SESSION_PATH=/")
    if prefix.startswith("__host-") and settings.session_domain is not None:
        yield _clash(
            "session_cookie session_domain", f"{shown} must have no HOLDFAST_SESSION_DOMAIN"
        )
    if settings.session_same_site == "none" and not secure:
        yield _clash(
            "session_same_site session_https_only", f"HOLDFAST_SESSION_SAME_SITE=none {needs}"
        )
    if settings.session_partitioned and not secure:
        yield _clash(
            "session_partitioned session_https_only", f"HOLDFAST_SESSION_PARTITIONED=true {needs}"
        )


def _clash(fields: str, line: str) -> Clash:
    return Clash(frozenset(fields.split()), line)


def _plain_key(settings: Settings) -> str:
    return settings.secret_key[0].get_secret_value()


# --- telling people ------------------------------------------------------------------------------


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
        secret: whether it is never shown.
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
        """The name of the field of :class:`Settings`."""
        return self.name.removeprefix(PREFIX).lower()


def _variable(name: str, info: FieldInfo) -> Variable:
    return Variable(
        name=_variables(name)[0],
        alias=BARE_NAMES.get(name),
        default=_shown(info.default),
        allowed=_allowed(info),
        meaning=info.description or "",
        example=str((info.examples or [""])[0]),
        secret=name in _SECRET_FIELDS,
    )


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, tuple):
        secret = value and isinstance(value[0], SecretStr)
        return ("***" if secret else ",".join(value)) if value else "none"
    return "none" if value is None else "empty" if value == "" else str(value)


def _allowed(info: FieldInfo) -> str:
    for each in info.metadata:
        if isinstance(each, Allowed):
            return each.words
    choices = get_args(info.annotation)
    if get_origin(info.annotation) is Literal:
        return f"{', '.join(choices[:-1])} or {choices[-1]}"
    return "text"


def _field_problems(
    cls: type[Settings],
    error: ValidationError,
    given: Mapping[str, Any],
    sources: Mapping[str, str],
) -> dict[str, str]:
    """A line for each field that *error* is about, in our words and without any secret."""
    problems: dict[str, str] = {}
    for each in error.errors(include_input=False, include_url=False):
        name = str(each["loc"][0])
        if name not in cls.model_fields:
            near = difflib.get_close_matches(name, cls.model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems[name] = f"{name}: is no setting{hint}"
            continue
        reason = str(each.get("ctx", {}).get("error", ""))
        allowed = _allowed(cls.model_fields[name])
        said = reason or f"must be {allowed}"
        problems[name] = f"{_given(name, given[name], sources[name])}: {said}"
    return problems


def _given(name: str, value: object, source: str) -> str:
    place = name if source == "argument" else source
    if name in _SECRET_FIELDS:
        return f"{place} (not shown)"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    # Whatever was pasted into the wrong variable: the login of a URL is nobody's to read.
    return f"{place}={re.sub(r'://.*@', '://***@', text)[:100]!r}"


def _told(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "\n".join(
        [f"{len(problems)} settings cannot work:", *(f"  {each}" for each in problems)]
    )


# --- once per process ----------------------------------------------------------------------------

_lock = threading.Lock()
_warned: set[str] = set()
_process_key: list[str] = []


def _warn_once(message: str) -> None:
    with _lock:
        if message in _warned:
            return
        _warned.add(message)
    logger.warning(message)


def _key_of_this_process() -> str:
    with _lock:
        if not _process_key:
            _process_key.append(secrets.token_urlsafe(32))
    _warn_once(
        "HOLDFAST_SECRET_KEY is not set: a random key signs for this process alone, and a restart "
        f"makes every cookie and token void. Make a lasting one: {MAKE_A_KEY}"
    )
    return _process_key[0]

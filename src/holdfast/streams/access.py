"""Who may read, stop or publish a run: tokens, and the policies of ``HOLDFAST_STREAM_ACCESS``.

A policy answers before anything is known of the run, and alike for a run that exists and one that
does not. No token is ever logged or shown.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, Literal, Protocol

from itsdangerous import BadData, URLSafeSerializer
from itsdangerous.encoding import base64_decode
from starlette.requests import HTTPConnection

from holdfast.endings import WAITED
from holdfast.errors import ConfigurationError, HoldfastError, RedisUnavailable
from holdfast.streams.event import check_run_id
from holdfast.streams.origins import site_of

if TYPE_CHECKING:
    from starlette.types import Scope

    from holdfast.settings import Settings
    from holdfast.streams.store import EventStore


log = logging.getLogger("holdfast.streams")


class PolicyError(HoldfastError):
    """The callable of ``HOLDFAST_STREAM_ACCESS`` raised instead of deciding."""


class BoundSession(Protocol):
    """What a token can be bound to: a session of holdfast's, which is not imported here."""

    @property
    def id_hash(self) -> str:
        """Names the session for its whole life, and opens nothing."""


Action = Literal["read", "stop", "publish"]
ACTIONS: frozenset[str] = frozenset({"read", "stop", "publish"})
MAX_TOKEN = 4096
_SALT = "holdfast.stream.token"

Authorize = Callable[[HTTPConnection, str, str], Awaitable[bool]]
"""What ``HOLDFAST_STREAM_ACCESS=package.module:callable`` names."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says.

    Attributes:
        status: 200 allowed, 401 nobody has said who is asking, 403 this one may not.
        until: when the permission ends, in seconds since 1970; ``None`` for no end.
        forged: the token given is none that was ever good: such attempts are counted.
        waits: refused as who asks for a run that is not there, which may be theirs once it is.
    """

    status: Literal[200, 401, 403]
    until: float | None = None
    forged: bool = field(default=False, compare=False)
    waits: bool = field(default=False, compare=False)


ALLOWED, UNKNOWN, FORBIDDEN = Verdict(200), Verdict(401), Verdict(403)
FORGED = Verdict(401, forged=True)
NOT_YET = Verdict(403, waits=True)
Policy = Callable[[HTTPConnection, str, Action], Awaitable[Verdict]]


def stream_token(
    run_id: str,
    ttl: float = 3600,
    *,
    actions: Collection[str] = ("read",),
    prefix: bool = False,
    session: BoundSession | None = None,
    settings: Settings | None = None,
) -> str:
    """Sign a capability for one run: whoever holds it may do *actions* until it expires.

    Pass it as ``Authorization: Bearer …`` or, where headers cannot be set (``EventSource``), as
    ``?token=``.

    Args:
        run_id: the run, or with *prefix* the beginning of run ids.
        ttl: seconds for which it is good; it also ends the streams that it opened. Default 3600.
        actions: of ``read``, ``stop`` and ``publish``. Default ``("read",)``.
        prefix: grant every run whose id begins with *run_id*.
        session: the session of holdfast's to bind it to, as ``get_session(request)`` returns it.
            It is then good with that session's cookie alone, and what it opened ends with the
            session; the app of the streams needs the session middleware around it.
        settings: whose secret key signs. Default: the environment's.

    Raises:
        ValueError: an unknown action, no action at all, or a *ttl* that is not positive.
        InvalidEvent: the run id cannot exist.
        ConfigurationError: ``HOLDFAST_SECRET_KEY`` is missing where Redis is configured.
    """
    check_run_id(run_id)
    # A text is a collection too, of its letters.
    if isinstance(actions, str) or not actions or not ACTIONS.issuperset(actions):
        raise ValueError("actions is a collection of 'read', 'stop' and 'publish'")
    if not (ttl > 0 and math.isfinite(ttl)):
        raise ValueError("ttl is a positive number of seconds")
    claims = {"r": run_id, "a": sorted(actions), "x": round(time.time() + ttl, 3)}
    if prefix:
        claims["p"] = 1
    if session is not None:
        claims["s"] = session.id_hash
    return _serializer(_settings(settings).signing_keys()).dumps(claims)


def verify_token(
    token: str,
    run_id: str,
    action: Action,
    keys: tuple[str, ...],
    now: float,
    session: Callable[[], str | None] = lambda: None,
) -> Verdict:
    """Judge a token for one action on one run.

    Args:
        token, run_id, action: who asks for what.
        keys: newest first.
        now: seconds since 1970.
        session: returns the ``id_hash`` of the session that came with the request, ``None`` for
            none; asked only where the token is bound to one.

    Returns:
        401 where it proves nothing (or no longer), 403 where it grants something else.
    """
    if len(token) > MAX_TOKEN or not token.isascii():
        return FORGED
    try:
        claims = _serializer(keys).loads(token)
        granted, until = str(claims["r"]), float(claims["x"])
    except (BadData, KeyError, TypeError, ValueError):
        return FORGED
    if now >= until or ("s" in claims and claims["s"] != session()):
        return UNKNOWN
    covers = run_id.startswith(granted) if claims.get("p") else run_id == granted
    return Verdict(200, until) if covers and action in claims.get("a", ()) else FORBIDDEN


def make_policy(settings: Settings, store: EventStore) -> Policy:
    """Return the policy that ``HOLDFAST_STREAM_ACCESS`` names.

    Beside it the tokens of ``HOLDFAST_STREAM_PUBLISH_TOKEN`` open publishing, and nothing else.

    Raises:
        ConfigurationError: the callable cannot be imported, or tokens cannot be signed.
    """
    policy = _named_policy(settings, store)
    tokens = [token.get_secret_value() for token in settings.stream_publish_token]
    return _with_publish_tokens(policy, tokens) if tokens else policy


def _named_policy(settings: Settings, store: EventStore) -> Policy:
    match settings.stream_access:
        case "open":
            return _open_policy(settings)
        case "session":
            return _session_policy(settings, store)
        case "token":
            return _token_policy(settings)
        case path:
            return _callable_policy(path, settings.stream_allowed_origins)


async def session_access(
    connection: HTTPConnection, run_id: str, action: str, *, store: EventStore | None = None
) -> bool:
    """Whether the live session around *connection* owns the run; for callables that build on it.

    A run's owner is ``user:<id>`` or ``session:<id_hash>``, and a session matches by either. A run
    without an owner, or of another, answers exactly as an absent one.

    Raises:
        ConfigurationError: there is no holdfast session middleware around the sub-app.
        RedisUnavailable: the session cannot be seen, or the owner not be looked up now.
    """
    session = _session_of(connection)
    if session is None:
        raise ConfigurationError(
            "HOLDFAST_STREAM_ACCESS=session needs holdfast's SessionMiddleware around the app"
        )
    if store is None:
        from holdfast.streams.store import EventStore

        store = EventStore.from_settings()
    # The middleware ends with its session what has looked at it.
    session.mark_accessed()
    owner = (await store.describe(run_id)).owner
    return owner is not None and owner in {session.owner, f"session:{session.id_hash}"}


def token_of(connection: HTTPConnection) -> str | None:
    """Return the token that the request carries: the header beats the query."""
    return bearer_of(connection) or connection.query_params.get("token")


def bearer_of(connection: HTTPConnection) -> str | None:
    """Return the token in the request's ``Authorization``, ``None`` for another scheme."""
    scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
    return credentials.strip() or None if scheme.lower() == "bearer" else None


def says_otherwise(token: str, run_id: str) -> bool:
    """Whether *token* says of itself, truly or not, that it is for other runs than *run_id*.

    It spares judging each of many tokens for each of many runs, and grants nothing.
    """
    payload = token.partition(".")[0]
    if not payload or len(token) > MAX_TOKEN:
        return False
    try:
        claims = json.loads(base64_decode(payload))
        granted, prefix = claims["r"], claims.get("p")
    except (BadData, ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return False
    return not (run_id.startswith(str(granted)) if prefix else run_id == granted)


def _with_publish_tokens(policy: Policy, tokens: Collection[str]) -> Policy:
    """Let whoever has one of *tokens* publish.

    They are good for every run and for long, so an address is no place for them (RFC 6750 section
    2.3): only the header is looked at.
    """
    known = [sha256(token.encode()).digest() for token in tokens]

    async def authorize(connection: HTTPConnection, run_id: str, action: Action) -> Verdict:
        if action == "publish" and _is_one_of(bearer_of(connection) or "", known):
            return ALLOWED
        return await policy(connection, run_id, action)

    return authorize


def _is_one_of(token: str, known: Collection[bytes]) -> bool:
    """Compare with all of them, in a time that tells neither which one nor how much was right."""
    given = sha256(token.encode("latin-1", "replace")).digest()
    return sum(compare_digest(given, each) for each in known) > 0


def _token_policy(settings: Settings) -> Policy:
    keys = settings.signing_keys()

    async def authorize(connection: HTTPConnection, run_id: str, action: Action) -> Verdict:
        token = token_of(connection)
        if token is None:
            return UNKNOWN
        session = partial(_live_session, connection)
        return verify_token(token, run_id, action, keys, time.time(), session)

    return authorize


def _live_session(connection: HTTPConnection) -> str | None:
    """Return the ``id_hash`` of the stored session around *connection*, ``None`` for none.

    Raises:
        RedisUnavailable: it may well exist, and cannot be seen now.
    """
    session = _session_of(connection)
    if session is None:
        return None
    # The middleware ends with its session what has looked at it.
    session.mark_accessed()
    return None if session.is_new else str(session.id_hash)


def owner_names(connection: HTTPConnection) -> tuple[str, ...]:
    """Return what the session around *connection* owns runs as, for new ones the first; or nothing.

    Raises:
        RedisUnavailable: the session cannot be seen now.
    """
    session = _session_of(connection)
    if session is None:
        return ()
    # The middleware ends with its session what has looked at it.
    session.mark_accessed()
    owner: str | None = session.owner
    return () if owner is None else (owner, f"session:{session.id_hash}")


def _session_of(connection: HTTPConnection) -> Any:
    """Return holdfast's session around *connection*, ``None`` where there is none of that kind.

    Raises:
        RedisUnavailable: it cannot be seen now.
    """
    session: Any = connection.scope.get("session")
    if not _is_ours(session):
        return None
    if not session.available:
        raise RedisUnavailable("session")
    return session


def _is_ours(session: object) -> bool:
    # Asked of the type: a session that cannot be seen raises for what it is asked itself.
    return hasattr(type(session), "id_hash")


def _open_policy(settings: Settings) -> Policy:
    by_token = (
        _token_policy(settings) if settings.redis_url is None or settings.secret_key else None
    )

    async def authorize(connection: HTTPConnection, run_id: str, action: Action) -> Verdict:
        if action == "read":
            return ALLOWED
        if by_token is None:
            return UNKNOWN if token_of(connection) is None else FORGED
        return await by_token(connection, run_id, action)

    return authorize


def _session_policy(settings: Settings, store: EventStore) -> Policy:
    by_token = _token_policy(settings)

    async def authorize(connection: HTTPConnection, run_id: str, action: Action) -> Verdict:
        # Browsers send the cookie for any page that asks: stopping takes the word of the browser
        # that the page is ours, and publishing is never a cookie's to allow (CWE-352). Nor is a
        # WebSocket, which no CORS guards: ``*`` lets other pages in, and none with a cookie.
        site = site_of(connection.headers, settings.stream_allowed_origins)
        if action == "read":
            by_session = connection.scope["type"] != "websocket" or site != "foreign"
        else:
            by_session = action == "stop" and site == "ours"
        if token_of(connection) is not None or not by_session:
            return await by_token(connection, run_id, action)
        if await session_access(connection, run_id, action, store=store):
            return ALLOWED
        # Without a session nobody has said who is asking.
        if _session_of(connection).is_new:
            return UNKNOWN
        note_waiting(connection.scope)
        return NOT_YET

    return authorize


def note_waiting(scope: Scope) -> None:
    """Note at holdfast's session around a request, if there is one, that the request waits.

    It was loaded for this request, which may be answered a minute later.
    """
    session = scope.get("session")
    if _is_ours(session):
        setattr(session, WAITED, True)


def _callable_policy(path: str, origins: Collection[str]) -> Policy:
    function = _imported(path)

    async def authorize(connection: HTTPConnection, run_id: str, action: Action) -> Verdict:
        # The callable may look at a cookie, which comes along whatever page has asked (CWE-352).
        if action != "read" and site_of(connection.headers, origins) == "foreign":
            return FORBIDDEN
        try:
            answer = function(connection, run_id, action)
            if inspect.isawaitable(answer):
                answer = await answer
        except RedisUnavailable:
            raise
        except Exception as error:
            # Whatever it is, nobody is let in by it; the log has it whole.
            log.exception("HOLDFAST_STREAM_ACCESS=%s failed", path)
            raise PolicyError(f"{path} failed ({type(error).__name__})") from error
        return ALLOWED if answer else FORBIDDEN

    return authorize


def _imported(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        # Whatever the module raises while it is imported, this is where a person sees it.
        raise ConfigurationError(
            f"HOLDFAST_STREAM_ACCESS={path!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if found is None:
        # This runs while an application is made, which its own module does: what it has further
        # down is not there yet.
        raise ConfigurationError(
            f"HOLDFAST_STREAM_ACCESS={path!r}: {module!r} has no {name!r}, or only below the line "
            "that makes the streams: define it above that line, or in a module of its own"
        )
    if not callable(found):
        raise ConfigurationError(f"HOLDFAST_STREAM_ACCESS={path!r} is nothing that can be called")
    checked: Callable[..., Any] = found
    return checked


@lru_cache(16)
def _serializer(keys: tuple[str, ...]) -> URLSafeSerializer:
    # itsdangerous signs with the last of its keys, HOLDFAST_SECRET_KEY names the newest first.
    return URLSafeSerializer(
        list(reversed(keys)),
        salt=_SALT,
        signer_kwargs={"digest_method": sha256, "key_derivation": "hmac"},
    )


def _settings(settings: Settings | None) -> Settings:
    from holdfast.runtime import runtime

    return runtime(settings).settings

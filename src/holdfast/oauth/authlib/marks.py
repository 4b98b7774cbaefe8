"""What is noted of a pending login in a session, where the application has one.

Pure, on any mapping. A mark is a second proof of the browser, beside the cookie, for a response
that is not ours to put a cookie on and for a proxy that lets only the session's cookie pass. It has
the name that Authlib gives it; the data of the login is never in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping

#: Abandoned logins leave no more marks than this: a session stays small.
MOST_MARKS = 8


def mark(
    session: MutableMapping[str, Any],
    provider: str,
    state: str,
    proof: str,
    now: float,
    ttl: float,
) -> None:
    """Note that this session began the login, and drop marks of which there are too many."""
    kept = _marks(session, provider, now)
    for key in kept[: max(0, len(kept) - MOST_MARKS + 1)]:
        session.pop(key, None)
    session[_key(provider, state)] = {"exp": now + ttl, "browser": proof}


def marked(session: MutableMapping[str, Any], provider: str, state: str) -> str | None:
    """Return the proof that the session has for this login."""
    noted = session.get(_key(provider, state))
    proof = noted.get("browser") if isinstance(noted, dict) else None
    return proof if isinstance(proof, str) else None


def unmark(session: MutableMapping[str, Any], provider: str, state: str, now: float) -> None:
    """Forget this login, and those that have expired."""
    session.pop(_key(provider, state), None)
    _marks(session, provider, now)


def is_unborn(session: MutableMapping[str, Any]) -> bool:
    """Whether a mark would be the only reason to keep this session on the server for days."""
    return bool(getattr(session, "is_new", False)) and not session


def _key(provider: str, state: str) -> str:
    return f"_state_{provider}_{state}"


def _marks(session: MutableMapping[str, Any], provider: str, now: float) -> list[str]:
    """The keys of the marks still good, the oldest first; the others are dropped."""
    prefix, good = _key(provider, ""), []
    for key in [key for key in session if key.startswith(prefix)]:
        noted = session[key]
        expires = noted.get("exp") if isinstance(noted, dict) else None
        if isinstance(expires, (int, float)) and expires > now:
            good.append((expires, key))
        else:
            session.pop(key)
    return [key for _, key in sorted(good)]

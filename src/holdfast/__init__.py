"""holdfast: server-side sessions and resumable event streams for any Python web app.

Public names are loaded when they are first used, so that importing the package costs next to
nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.errors import ConfigurationError as ConfigurationError
    from holdfast.errors import CorruptData as CorruptData
    from holdfast.errors import EventTooLarge as EventTooLarge
    from holdfast.errors import HoldfastError as HoldfastError
    from holdfast.errors import IdempotencyKeyReused as IdempotencyKeyReused
    from holdfast.errors import InvalidEvent as InvalidEvent
    from holdfast.errors import JournalFull as JournalFull
    from holdfast.errors import OAuthStateUnavailable as OAuthStateUnavailable
    from holdfast.errors import RedisUnavailable as RedisUnavailable
    from holdfast.errors import RunEnded as RunEnded
    from holdfast.errors import RunExpired as RunExpired
    from holdfast.errors import RunNotYours as RunNotYours
    from holdfast.errors import RunStopped as RunStopped
    from holdfast.errors import SessionError as SessionError
    from holdfast.errors import SessionTooLarge as SessionTooLarge
    from holdfast.errors import SessionTooLate as SessionTooLate
    from holdfast.errors import SessionUnavailable as SessionUnavailable
    from holdfast.errors import StreamRefused as StreamRefused
    from holdfast.oauth.store import OAuthStateStore as OAuthStateStore
    from holdfast.oauth.store import SyncOAuthStateStore as SyncOAuthStateStore
    from holdfast.runtime import aclose as aclose
    from holdfast.sessions.doors.asgi import SessionMiddleware as SessionMiddleware
    from holdfast.sessions.doors.wsgi import WSGISessionMiddleware as WSGISessionMiddleware
    from holdfast.sessions.events import SessionCreated as SessionCreated
    from holdfast.sessions.events import SessionDestroyed as SessionDestroyed
    from holdfast.sessions.events import SessionEvent as SessionEvent
    from holdfast.sessions.events import SessionExpired as SessionExpired
    from holdfast.sessions.events import SessionRefused as SessionRefused
    from holdfast.sessions.events import SessionRenewed as SessionRenewed
    from holdfast.sessions.events import SessionRotated as SessionRotated
    from holdfast.sessions.events import SessionUnknown as SessionUnknown
    from holdfast.sessions.events import on_session_event as on_session_event
    from holdfast.sessions.index import SessionIndex as SessionIndex
    from holdfast.sessions.index import SyncSessionIndex as SyncSessionIndex
    from holdfast.sessions.session import Session as Session
    from holdfast.sessions.session import get_session as get_session
    from holdfast.sessions.store import SessionStore as SessionStore
    from holdfast.sessions.stores.memory import MemorySessionStore as MemorySessionStore
    from holdfast.sessions.stores.redis import RedisSessionStore as RedisSessionStore
    from holdfast.sessions.sync_session import SyncSession as SyncSession
    from holdfast.sessions.users import SessionInfo as SessionInfo
    from holdfast.settings import Settings as Settings
    from holdfast.streams.access import session_access as session_access
    from holdfast.streams.access import stream_token as stream_token
    from holdfast.streams.app import EventStreamApp as EventStreamApp
    from holdfast.streams.capture.middleware import (
        StreamCaptureMiddleware as StreamCaptureMiddleware,
    )
    from holdfast.streams.event import StreamEvent as StreamEvent
    from holdfast.streams.publishing.publisher import RunPublisher as RunPublisher
    from holdfast.streams.publishing.runs import start_run as start_run
    from holdfast.streams.publishing.stop import request_stop as request_stop
    from holdfast.streams.publishing.sync_publisher import SyncRunPublisher as SyncRunPublisher
    from holdfast.streams.response import RunResponse as RunResponse
    from holdfast.streams.store import EventStore as EventStore
    from holdfast.streams.wsgi.app import WSGIEventStreamApp as WSGIEventStreamApp
    from holdfast.wrapping.extension import Holdfast as Holdfast

__version__ = "0.1.0.dev0"

_HOMES = {
    "ConfigurationError": "errors",
    "CorruptData": "errors",
    "EventStore": "streams.store",
    "EventStreamApp": "streams.app",
    "EventTooLarge": "errors",
    "Holdfast": "wrapping.extension",
    "HoldfastError": "errors",
    "IdempotencyKeyReused": "errors",
    "InvalidEvent": "errors",
    "JournalFull": "errors",
    "MemorySessionStore": "sessions.stores.memory",
    "OAuthStateStore": "oauth.store",
    "OAuthStateUnavailable": "errors",
    "RedisSessionStore": "sessions.stores.redis",
    "RedisUnavailable": "errors",
    "RunEnded": "errors",
    "RunExpired": "errors",
    "RunNotYours": "errors",
    "RunPublisher": "streams.publishing.publisher",
    "RunResponse": "streams.response",
    "RunStopped": "errors",
    "Session": "sessions.session",
    "SessionCreated": "sessions.events",
    "SessionDestroyed": "sessions.events",
    "SessionError": "errors",
    "SessionEvent": "sessions.events",
    "SessionExpired": "sessions.events",
    "SessionIndex": "sessions.index",
    "SessionInfo": "sessions.users",
    "SessionMiddleware": "sessions.doors.asgi",
    "SessionRefused": "sessions.events",
    "SessionRenewed": "sessions.events",
    "SessionRotated": "sessions.events",
    "SessionStore": "sessions.store",
    "SessionTooLarge": "errors",
    "SessionTooLate": "errors",
    "SessionUnavailable": "errors",
    "SessionUnknown": "sessions.events",
    "Settings": "settings",
    "StreamCaptureMiddleware": "streams.capture.middleware",
    "StreamEvent": "streams.event",
    "StreamRefused": "errors",
    "SyncOAuthStateStore": "oauth.store",
    "SyncRunPublisher": "streams.publishing.sync_publisher",
    "SyncSession": "sessions.sync_session",
    "SyncSessionIndex": "sessions.index",
    "WSGIEventStreamApp": "streams.wsgi.app",
    "WSGISessionMiddleware": "sessions.doors.wsgi",
    "aclose": "runtime",
    "get_session": "sessions.session",
    "on_session_event": "sessions.events",
    "request_stop": "streams.publishing.stop",
    "session_access": "streams.access",
    "start_run": "streams.publishing.runs",
    "stream_token": "streams.access",
}

__all__ = [
    "ConfigurationError",
    "CorruptData",
    "EventStore",
    "EventStreamApp",
    "EventTooLarge",
    "Holdfast",
    "HoldfastError",
    "IdempotencyKeyReused",
    "InvalidEvent",
    "JournalFull",
    "MemorySessionStore",
    "OAuthStateStore",
    "OAuthStateUnavailable",
    "RedisSessionStore",
    "RedisUnavailable",
    "RunEnded",
    "RunExpired",
    "RunNotYours",
    "RunPublisher",
    "RunResponse",
    "RunStopped",
    "Session",
    "SessionCreated",
    "SessionDestroyed",
    "SessionError",
    "SessionEvent",
    "SessionExpired",
    "SessionIndex",
    "SessionInfo",
    "SessionMiddleware",
    "SessionRefused",
    "SessionRenewed",
    "SessionRotated",
    "SessionStore",
    "SessionTooLarge",
    "SessionTooLate",
    "SessionUnavailable",
    "SessionUnknown",
    "Settings",
    "StreamCaptureMiddleware",
    "StreamEvent",
    "StreamRefused",
    "SyncOAuthStateStore",
    "SyncRunPublisher",
    "SyncSession",
    "SyncSessionIndex",
    "WSGIEventStreamApp",
    "WSGISessionMiddleware",
    "aclose",
    "get_session",
    "on_session_event",
    "request_stop",
    "session_access",
    "start_run",
    "stream_token",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    value = getattr(import_module(f"holdfast.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

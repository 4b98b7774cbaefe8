"""Which store serves by default: what ``HOLDFAST_SESSION_STORE`` and the Redis URL say.

One per runtime, so that every middleware, adapter and command of a process shares it.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

from holdfast.errors import ConfigurationError
from holdfast.sessions.store import SessionStore
from holdfast.sessions.stores.encryption import encrypted
from holdfast.sessions.stores.memory import MemorySessionStore

if TYPE_CHECKING:
    from holdfast.runtime import Runtime
    from holdfast.settings import Settings

logger = logging.getLogger("holdfast.sessions")


def default_store(runtime: Runtime) -> SessionStore:
    """Return the session store of *runtime*, the same at every call.

    Raises:
        ConfigurationError: ``SESSION_STORE`` names a factory that is not there, fails or gives no
            store, or memory where several workers are to share it, or an encryption key is set
            and the package for it is missing.
    """
    return runtime.once("session_store", lambda: encrypted(_make(runtime), runtime.settings))


def _make(runtime: Runtime) -> SessionStore:
    settings = runtime.settings
    kind = settings.session_store
    if kind == "memory" or (kind == "auto" and settings.redis_url is None):
        settings.check_workers()
        return _memory(settings)
    if kind in {"auto", "redis"}:
        return _redis(runtime)
    return _made_by(kind, settings)


def _memory(settings: Settings) -> SessionStore:
    # With SESSION_STORE=memory the URL alone would change nothing.
    remedies = ["Set HOLDFAST_REDIS_URL"] if settings.redis_url is None else []
    remedies += ["unset HOLDFAST_SESSION_STORE"] if settings.session_store == "memory" else []
    remedy = " and ".join(remedies)
    logger.warning(
        "Sessions are kept in the memory of this process: a restart ends them, and no other "
        "process sees them. %s to share and keep them.",
        remedy[0].upper() + remedy[1:],
    )
    return MemorySessionStore()


def _redis(runtime: Runtime) -> SessionStore:
    from holdfast.sessions.outage.fallback import FallbackSessionStore

    return FallbackSessionStore(runtime.settings, link=runtime.link)


def named_factory(path: str) -> object:
    """Return what ``package.module:factory`` names.

    Raises:
        ConfigurationError: there is no such thing, or its module cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        factory: object = importlib.import_module(module)
        for part in name.split("."):
            factory = getattr(factory, part)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"HOLDFAST_SESSION_STORE={path}: {error}") from error
    except (ImportError, AttributeError) as error:
        # This may run while the module of an application is imported: what stands in it further
        # down is not there yet, nor for a module of the store's that imports it.
        raise ConfigurationError(
            f"HOLDFAST_SESSION_STORE={path}: {error}. Define it above the line that makes the "
            "sessions, or in a module of its own that does not import the application"
        ) from error
    except Exception as error:
        # Whatever a module raises while it is imported, this is where a person sees it.
        raise _failed(path, "cannot be imported", error) from error
    return factory


def _made_by(path: str, settings: Settings) -> SessionStore:
    factory = named_factory(path)
    try:
        store = factory(settings) if callable(factory) else factory
    except ConfigurationError:
        raise
    except Exception as error:
        # Servers would take it for an application without a lifespan, and fail each request.
        raise _failed(path, "was called with the settings, and failed", error) from error
    if not isinstance(store, SessionStore):
        raise ConfigurationError(
            f"HOLDFAST_SESSION_STORE={path} must be a callable that takes the settings and returns "
            f"a SessionStore, and it gave {type(store).__name__}"
        )
    return store


def _failed(path: str, how: str, error: Exception) -> ConfigurationError:
    told = f"{type(error).__name__}: {error}"
    return ConfigurationError(f"HOLDFAST_SESSION_STORE={path} {how}: {told}")

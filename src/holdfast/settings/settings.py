"""One configuration: the environment, with arguments in place of what they name, checked whole."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr, ValidationError

from holdfast.errors import ConfigurationError
from holdfast.forks import ForkSafeLock
from holdfast.settings.environment import Environment, file_text, workers_announced
from holdfast.settings.redis_url import RedisTarget, parse
from holdfast.settings.rules import clashes, has_short_key
from holdfast.settings.table import MAKE_A_KEY, MIN_KEY_LENGTH, SECRETS, Table
from holdfast.settings.words import Variable, problems, shown, told, variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

logger = logging.getLogger("holdfast")


class Settings(Table):
    """The configuration of holdfast. Immutable, hashable, equal by value; it never shows a secret.

    Args:
        environ: variables to read in place of those of the process.
        **arguments: values by field name; each beats the environment.

    Raises:
        ConfigurationError: every value that cannot work, each with what is allowed.
    """

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    _warnings: tuple[str, ...] = PrivateAttr(default=())
    _redis_file: tuple[str, str] | None = PrivateAttr(default=None)

    def __init__(self, *, environ: Mapping[str, str] | None = None, **arguments: Any) -> None:
        environment = Environment(type(self), environ)
        given = environment() | arguments
        sources = environment.sources | dict.fromkeys(arguments, "argument")
        wrong = {name: line for name, line in environment.problems.items() if name not in arguments}
        lines = self._fill(given, sources, wrong)
        if lines:
            raise ConfigurationError(told(lines))
        self._sources = {name: sources[name] for name in given}
        if sources.get("redis_url") != "argument":
            self._redis_file = environment.files.get("redis_url")
        self._warnings = (*environment.unknown(), *self._doubts())
        for line in self._warnings:
            _warn_once(line)

    def _fill(
        self, given: Mapping[str, Any], sources: Mapping[str, str], wrong: dict[str, str]
    ) -> list[str]:
        """Take what is *given*; return a line for all that cannot work, *wrong* and clashes too."""
        try:
            super().__init__(**given)
        except ValidationError as error:
            wrong = wrong | problems(error, given, sources)
            # Once more without them, so that clashes among the others are told in the same breath.
            super().__init__(**{name: given[name] for name in given if name not in wrong})
        found = clashes(self, sources.get("secret_key", "default"))
        order = list(Table.model_fields)
        lines = sorted(wrong, key=lambda name: order.index(name) if name in order else len(order))
        return [wrong[name] for name in lines] + [
            clash.line for clash in found if not clash.fields & wrong.keys()
        ]

    def _doubts(self) -> Iterator[str]:
        if has_short_key(self):
            yield f"the secret key is short: use at least {MIN_KEY_LENGTH} random characters"
        if any(len(token) < MIN_KEY_LENGTH for token in self.stream_publish_token):
            yield f"a publish token is short: use at least {MIN_KEY_LENGTH} random characters"
        target = self.redis_target
        if target and target.ignored:
            names = ", ".join(target.ignored)
            yield f"{self.source('redis_url')}: these options of the URL are ignored: {names}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``__init__`` hands over: it has read :class:`Environment` itself."""
        return (init_settings,)

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
    def warnings(self) -> tuple[str, ...]:
        """What was logged when these settings were made: it works, and is hardly what was meant."""
        return self._warnings

    def shown(self, name: str) -> str:
        """The value of field *name* as a person may see it: secrets masked."""
        if name == "redis_url":
            return self.redis_url_masked or "none"
        return shown(getattr(self, name))

    @property
    def redis_target(self) -> RedisTarget | None:
        """The Redis URL taken apart, or ``None`` where no Redis is configured."""
        return parse(self.redis_url.get_secret_value()) if self.redis_url else None

    @property
    def redis_url_in_file(self) -> bool:
        """Whether the Redis URL comes from a file, which may be given another password."""
        return self._redis_file is not None

    def redis_credentials(self) -> tuple[str | None, str | None]:
        """User and password of the Redis URL, as they are now.

        A URL that came from a file is read again, so that a password can be changed without a
        restart.

        Raises:
            ValueError: the file cannot be read now, or holds no URL.
        """
        target = self.redis_target
        if self._redis_file is not None:
            target = parse(file_text(*self._redis_file))
        return (target.username, target.password) if target else (None, None)

    @property
    def redis_url_masked(self) -> str | None:
        """The Redis URL for people: no password, no options."""
        target = self.redis_target
        return target.masked if target else None

    def signing_keys(self) -> tuple[str, ...]:
        """The keys that sign and verify, newest first.

        Without Redis and without a key: one random key per process, the same for every caller and
        for children forked afterwards. The log says once that a restart makes it void.

        Raises:
            ConfigurationError: no key, though Redis is set: other processes could not verify.
        """
        if self.secret_key:
            return tuple(key.get_secret_value() for key in self.secret_key)
        if self.redis_url is not None:
            raise ConfigurationError(
                "HOLDFAST_SECRET_KEY is not set: with Redis, every process must sign with the same "
                f"key. Make one, keep it secret and set it everywhere: {MAKE_A_KEY}"
            )
        return (_key_of_this_process(),)

    def check_workers(self, workers: int | None = None) -> None:
        """Refuse memory where several processes would each keep their own.

        Args:
            workers: processes of this app. Default: what ``WEB_CONCURRENCY`` announces, else 1.

        Raises:
            ConfigurationError: more than one, and neither Redis nor ``SESSION_STORE=memory`` is
                set. With the latter, the log says once what it means.
        """
        count = workers_announced() if workers is None else workers
        if count <= 1:
            return
        if self.redis_url is None and self.session_store == "auto":
            raise ConfigurationError(
                f"{count} worker processes and no Redis: each would keep its own sessions and "
                "streams. Set HOLDFAST_REDIS_URL, or run one worker, or accept it with "
                "HOLDFAST_SESSION_STORE=memory"
            )
        if self.session_store == "memory":
            _warn_once(
                f"HOLDFAST_SESSION_STORE=memory with {count} worker processes: each keeps its own "
                "sessions, and a browser meets another one at every request"
            )

    def override(self, **arguments: Any) -> Settings:
        """These settings with *arguments* in place of what they name, checked as a whole.

        Raises:
            ConfigurationError: as the constructor.
        """
        kept = {name: getattr(self, name) for name in self._sources if name not in arguments}
        settings = _rebuilt(kept, self._sources, arguments)
        if "redis_url" in kept:
            settings._redis_file = self._redis_file  # noqa: SLF001 - our own
        return settings

    @classmethod
    def table(cls) -> list[Variable]:
        """Every variable, in the order of the documentation."""
        return variables()

    def __eq__(self, other: object) -> bool:
        # Not pydantic's, which compares private attributes too: a value's source is no part of it.
        return isinstance(other, Settings) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        given = (name for name in Table.model_fields if name in self._sources)
        return f"Settings({', '.join(f'{name}={self.shown(name)}' for name in given)})"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        # A pickle lies in queues and on disks; SecretStr would put its secret there in plain text.
        secret = [name for name in self._sources if name in SECRETS]
        if secret:
            raise TypeError(
                f"Settings with secrets ({', '.join(secret)}) are not pickled: "
                "make Settings() where they are needed, from that process's environment"
            )
        return _rebuilt, ({name: getattr(self, name) for name in self._sources}, self._sources, {})


def _rebuilt(
    kept: Mapping[str, Any], sources: Mapping[str, str], arguments: Mapping[str, Any]
) -> Settings:
    settings = Settings(environ={}, **kept, **arguments)
    settings._sources.update({name: sources[name] for name in kept})  # noqa: SLF001 - our own
    return settings


_lock = ForkSafeLock()
_warned: set[str] = set()
_process_key: list[str] = []


def _warn_once(message: str) -> None:
    with _lock():
        if message in _warned:
            return
        _warned.add(message)
    logger.warning(message)


def _key_of_this_process() -> str:
    with _lock():
        if not _process_key:
            _process_key.append(secrets.token_urlsafe(32))
    _warn_once(
        "HOLDFAST_SECRET_KEY is not set: a random key signs for this process alone, and a restart "
        f"makes every cookie and token void. Make a lasting one: {MAKE_A_KEY}"
    )
    return _process_key[0]

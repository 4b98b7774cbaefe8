"""The table of variables: each one's name, kind, default and meaning, written once.

A field here is a variable there: documentation, errors and the command line are made from it.
What a value does, and how several go together, is said elsewhere.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from holdfast.settings.kinds import (
    Access,
    Allowed,
    CookieName,
    CookiePath,
    Count,
    Domain,
    Duration,
    Flag,
    Import,
    Imports,
    KeyPrefix,
    Keys,
    Mount,
    Names,
    OnOutage,
    Origins,
    Paths,
    Percent,
    PositiveCount,
    PositiveDuration,
    PositiveSeconds,
    RedisUrl,
    SameSite,
    Seconds,
    SessionStore,
    Template,
)

PREFIX = "HOLDFAST_"
#: Names accepted without the prefix, because hosting platforms set them or people know them.
BARE_NAMES = {"redis_url": "REDIS_URL", "stream_enabled": "REDIS_STREAM_ENABLED"}
#: Never shown, dumped or pickled.
SECRETS = frozenset({"secret_key", "redis_url", "session_encryption_key", "stream_publish_token"})
#: Characters that the first signing key has at least: below it, guessing becomes cheap.
MIN_KEY_LENGTH = 16
MAKE_A_KEY = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'


def variable_names(field: str) -> tuple[str, ...]:
    """The variables that set *field*; each beats those after it."""
    own = PREFIX + field.upper()
    return (own, BARE_NAMES[field]) if field in BARE_NAMES else (own,)


class Table(BaseSettings):
    """Every variable of holdfast, as a lower-case field without the prefix."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    secret_key: Keys = Field(
        (),
        description="Signs cookies and tokens. Newest first: the first signs, all verify; the first"
        " has at least 16 characters. Required with Redis by whatever signs; in memory "
        "a random one is made per process, with a warning. To make one: "
        f"`{MAKE_A_KEY}`.",
        examples=["newest-key,older-key"],
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
    key_prefix: KeyPrefix = Field(
        "",
        description="Put before every key, so that several apps can share one Redis.",
        examples=["shop:"],
    )

    session_store: SessionStore = Field(
        "auto",
        description="Where sessions are kept. `auto`: Redis where a URL is set, else memory.",
        examples=["redis"],
    )
    session_on_outage: OnOutage = Field(
        "local",
        description="While Redis is away: `local` falls back to memory, `readonly` serves what is "
        "known, `closed` answers 503 to whoever needs a session.",
        examples=["readonly"],
    )
    session_cookie: CookieName = Field(
        "session",
        description="Name of the cookie; where this is not set, a framework's own name wins.",
        examples=["__Host-session"],
    )
    session_path: CookiePath = Field("/", description="The cookie's `Path`.", examples=["/app"])
    session_domain: Domain = Field(
        None,
        description="The cookie's `Domain`. Not set: only the very host that set it gets it back.",
        examples=["example.com"],
    )
    session_same_site: SameSite = Field(
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
    session_user_key: Annotated[str | None, Allowed("the name of a session key")] = Field(
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
        description="Encrypts session data at rest (extra `crypto`). Newest first: the first "
        "encrypts, all decrypt; the first has at least 16 characters.",
        examples=["the-newest-key-of-all,the-older-key"],
    )
    session_encryption_strict: Flag = Field(
        False,
        description="Refuse sessions stored in plain text, which are otherwise encrypted at their "
        "next write.",
        examples=["true"],
    )
    session_import: Imports = Field(
        (),
        description="Other packages whose sessions are read, so that moving over logs nobody out.",
        examples=["starlette"],
    )
    session_index_address: Flag = Field(
        False,
        description="Keep the client's address in the index of a user's sessions.",
        examples=["true"],
    )
    session_audit_log: Annotated[str | None, Allowed("a path, or - for standard output")] = Field(
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
        description="The Pub/Sub channel of a run; the key prefix stands before it.",
        examples=["events:{run_id}"],
    )
    stream_dual_write: Flag = Field(
        False,
        description="Publish Streams runs on the Pub/Sub channel too, for subscribers not yet "
        "moved.",
        examples=["true"],
    )
    stream_mount: Mount = Field(
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
    stream_retention: PositiveSeconds = Field(
        86400,
        description="Seconds the events of a run are kept after its end, or after its last event if"
        " it never ends.",
        examples=["604800"],
    )
    stream_wait: Duration = Field(
        15,
        description="Seconds a reader of a run that nobody has started yet is kept waiting before "
        "404, 60 at most. `?wait=` overrides it; REST never waits.",
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
        description="Events kept in memory per process during an outage, and written on recovery.",
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
    stream_access: Access = Field(
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
        examples=["the-newer-random-token,the-older-random-token"],
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
        description="Seconds without a reader until a captured answer is cancelled. 0: never.",
        examples=["300"],
    )
    stream_handle_signals: Flag = Field(
        True,
        description="Chain SIGTERM and SIGINT, so that streams end cleanly at shutdown.",
        examples=["false"],
    )

    app: Import = Field(
        None,
        description="The app that `holdfast.asgi:app` and `holdfast.wsgi:app` wrap.",
        examples=["shop.main:app"],
    )

"""Every error that holdfast raises, in one tree.

Only classes live here: no I/O, no import from the rest of the package, so that anyone may import
it.

    HoldfastError
    ├── ConfigurationError (ValueError)    a variable, an argument or a combination that cannot work
    ├── RedisUnavailable                   Redis did not answer; never means "absent"
    ├── RedisReplyError                    Redis answered, and said no to this one command
    ├── CorruptData                        something stored cannot be decoded; never means "outage"
    ├── OAuthStateUnavailable              a login can neither begin nor end now (503)
    ├── SessionError
    │   ├── SessionUnavailable             the session exists, but cannot be served now (503)
    │   │   ├── SessionNotReplicated       written, but on fewer replicas than REDIS_WAIT asks for
    │   │   └── SessionUnsettled           replaced, and its browser may not be told of it
    │   ├── SessionTooLarge (ValueError)   the write was refused, the old data is kept
    │   └── SessionTooLate                 the response has started: a cookie can no longer be sent
    └── StreamError
        ├── InvalidEvent (ValueError)      a run id, type or data that no stream can carry
        │   └── EventTooLarge              refused before any I/O
        ├── JournalFull                    Redis is away and the journal is at its bound
        ├── IdempotencyKeyReused           the key of a request came again with another body
        ├── RunEnded                       the run has its terminal event
        │   └── RunExpired                 … and its events are no longer kept
        ├── RunNotYours                    another owner's run
        ├── RunStopped                     somebody asked this run to stop
        └── StreamRefused                  a server will not let a client read a run
"""

from __future__ import annotations


class HoldfastError(Exception):
    """The base of every error that holdfast raises on purpose."""


class ConfigurationError(HoldfastError, ValueError):
    """A setting or argument that cannot work. The message names each one and the remedy."""


class RedisUnavailable(HoldfastError):
    """Redis did not answer in time, or answered that it cannot serve now.

    Args:
        reason: one word of the field: ``refused``, ``reset``, ``timeout``, ``readonly``,
        ``loading``,
            ``out_of_memory``, ``auth``, ``unsupported`` … It names no host and no user.
        detail: more for the log; never a secret.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"Redis is unavailable: {detail or reason}")
        self.reason = reason
        self.detail = detail


class RedisReplyError(HoldfastError):
    """Redis refused one command (``WRONGTYPE``, a script error …) while being perfectly well.

    Args:
        code: the first word of the reply, such as ``WRONGTYPE``.
        message: the whole reply.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CorruptData(HoldfastError):
    """A stored value cannot be decoded. It is reported, and never taken for an outage."""


class OAuthStateUnavailable(HoldfastError):
    """A login can neither begin nor end while Redis is away. Answer 503 with ``Retry-After``.

    Args:
        reason: one word of the field, as in :class:`RedisUnavailable`.

    Attributes:
        retry_after: seconds after which another try makes sense: the hold-down of the link.
    """

    retry_after = 2

    def __init__(self, reason: str) -> None:
        super().__init__(f"the OAuth state cannot be reached: Redis is unavailable ({reason})")
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


class SessionError(HoldfastError):
    """The base of what a session raises."""


class SessionUnavailable(SessionError):
    """The session cannot be served while Redis is away. Answer 503 with ``Retry-After``.

    Args:
        message: what was tried.
        retry_after: seconds after which another try makes sense. Default 2, the hold-down of the
        link.
    """

    def __init__(
        self, message: str = "the session store is unavailable", retry_after: int = 2
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SessionNotReplicated(SessionUnavailable):
    """It was written, and fewer replicas than ``HOLDFAST_REDIS_WAIT`` hold it in time.

    It can be read, and a failover may lose it. Only a new cookie is undone: nobody has it.
    """


class SessionUnsettled(SessionUnavailable):
    """The cookie was replaced a moment ago, and whether its browser is told is not known yet.

    As long as the process that replaced it says neither, the old cookie may be good again: it opens
    nothing, and nobody can say that its session is over.
    """

    def __init__(
        self,
        message: str = "the session's cookie was replaced, and perhaps nobody was told of it",
        retry_after: int = 2,
    ) -> None:
        super().__init__(message, retry_after)


class SessionTooLarge(SessionError, ValueError):
    """The session would exceed ``HOLDFAST_SESSION_MAX_BYTES``. The stored data is unchanged."""


class SessionTooLate(SessionError):
    """The response has started, so the browser can no longer be given a cookie."""


class StreamError(HoldfastError):
    """The base of what publishing and reading a run raises."""


class InvalidEvent(StreamError, ValueError):
    """A run id, event type or data that no stream can carry. The message says which and why."""


class EventTooLarge(InvalidEvent):
    """The event's data exceeds ``HOLDFAST_STREAM_MAX_EVENT_BYTES``. Nothing was sent."""


class JournalFull(StreamError):
    """Redis is away and ``HOLDFAST_STREAM_JOURNAL`` events wait: this one was not accepted."""


class IdempotencyKeyReused(StreamError):
    """The idempotency key was used for this run before, with other events. Nothing was written."""


class RunEnded(StreamError):
    """The run has its terminal event; nothing can follow it."""


class RunExpired(RunEnded):
    """The run is over and its events are no longer kept."""


class RunNotYours(StreamError):
    """The run belongs to another owner."""


class RunStopped(StreamError):
    """The run was asked to stop.

    Args:
        run_id: the run.
    """

    def __init__(self, run_id: str) -> None:
        super().__init__(f"the run {run_id!r} has been asked to stop")
        self.run_id = run_id


class StreamRefused(StreamError):
    """A server refused to let a run be read, and would refuse again.

    Args:
        status: the HTTP status of its answer.
        code: the ``code`` of the problem, such as ``RUN_NOT_FOUND``, where it had one.
        title: what the problem says, for people.
    """

    def __init__(self, status: int, code: str | None = None, title: str | None = None) -> None:
        super().__init__(f"{title or 'the server refused the stream'} ({code or status})")
        self.status = status
        self.code = code

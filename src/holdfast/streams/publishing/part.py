"""What a publisher remembers of its part in a run, whether it awaits or blocks.

State only: which life of the run it belongs to, whether it ended it, what holds its lease. Nothing
here sends or waits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NoReturn

from holdfast.errors import RunEnded
from holdfast.streams.event import TERMINAL_TYPES, StreamEvent, check_owner, check_run_id
from holdfast.streams.hold import Hold
from holdfast.streams.store import EventStore, to_event

if TYPE_CHECKING:
    from holdfast.settings import Settings
    from holdfast.streams.store import Draft, Entry

MAX_MESSAGE = 10_000


class Part(ABC):
    """The part of one publisher in one run.

    Attributes:
        run_id: the run.
        owner: who owns it, if this publisher's first event creates it.
    """

    def __init__(
        self,
        run_id: str,
        *,
        owner: str | None = None,
        store: EventStore | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.run_id = check_run_id(run_id)
        self.owner = check_owner(owner)
        self._store = store or EventStore.from_settings(settings)
        self._ended = False
        self._attended = False
        self._hold = Hold(run_id, self._told, lease=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_id!r}{' ended' if self._ended else ''}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: what it shares with its process does not go with it."""
        raise TypeError(
            f"a {type(self).__name__} stays in its process: hand over its run id"
            f" ({self.run_id!r}), and make another there"
        )

    @property
    def stop_requested(self) -> bool:
        """Whether the run has been asked to stop.

        Inside the publisher's block it is known at once. Elsewhere it is listened for from the
        first time that somebody asks here or in ``wait_stop()``; before that the answer to each
        event tells.
        """
        self._attend()
        return self._hold.stopping

    @abstractmethod
    def _told(self) -> None:
        """Take note that the run has been asked to stop. Any thread."""

    def _take_hold(self, *, lease: bool) -> None:
        """Go on under another name, with what is known of the run."""
        known = self._hold
        self._hold = Hold(self.run_id, self._told, lease=lease)
        self._hold.learn(known.life, stopping=known.stopping)
        self._attended = False

    def _attend(self) -> None:
        if not (self._attended or self._ended):
            self._store.attend(self._hold)
            self._attended = True

    def _leave(self) -> None:
        self._attended = False
        self._store.leave(self._hold)

    def _check_open(self) -> None:
        """Raise ``RunEnded`` where this publisher has ended its run."""
        if self._ended:
            raise RunEnded(
                f"the run {self.run_id!r} has ended; nothing can follow its terminal event"
            )

    def _published(self, draft: Draft, entry: Entry, data: Any) -> StreamEvent:
        """Take note of what became of *draft*, whose value is *data*."""
        self._note(draft, entry)
        return to_event(self.run_id, entry, data)

    def _note(self, draft: Draft, entry: Entry) -> None:
        # Another life than before is the store's word that it had lost the run, and begun it anew.
        self._hold.learn(entry.life, stopping=entry.stopping)
        if draft.type in TERMINAL_TYPES:
            self._ended = True


def error_data(error: BaseException | str) -> dict[str, dict[str, str]]:
    """Return what ``workflow_error`` says of *error*."""
    kind = "Error" if isinstance(error, str) else type(error).__name__
    # Half a surrogate pair (a file name in a message, PEP 383) must not cost the run its end.
    message = str(error)[:MAX_MESSAGE].encode("utf-8", "replace").decode()
    return {"error": {"type": kind, "message": message}}

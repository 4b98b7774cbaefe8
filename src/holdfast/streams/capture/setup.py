"""One configured capture: the store, the keys, and what is being recorded in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.streams.capture.ids import capture_key
from holdfast.streams.publishing.runs import store_of
from holdfast.streams.response import serving_hub

if TYPE_CHECKING:
    from holdfast.runtime import Runtime
    from holdfast.settings import Settings
    from holdfast.streams.capture.recording import Recording
    from holdfast.streams.fanout.hub import Hub
    from holdfast.streams.store import EventStore


class Setup:
    """What all requests share.

    Args:
        settings: the configuration. Default: the environment.
        store: where the runs are kept. Default: the process's own store.

    Attributes:
        keys: newest first.
        here: what is being recorded in this process, by run.

    Raises:
        ConfigurationError: a variable cannot work.
    """

    def __init__(self, settings: Settings | None, store: EventStore | None) -> None:
        from holdfast.runtime import runtime

        self.runtime: Runtime = runtime(settings)
        self.settings = self.runtime.settings
        self.keys = [capture_key(key) for key in self.settings.signing_keys()]
        self.store = store or store_of(self.runtime)
        self.here: dict[str, Recording] = {}

    def hub(self) -> Hub:
        """The hub of the running event loop, told of signals."""
        return serving_hub(self.store, self.runtime)

    def is_full(self, hub: Hub) -> bool:
        """Whether one more reader cannot be served, here and now."""
        return hub.stopping or len(hub.subscribers) >= self.settings.stream_max_subscribers

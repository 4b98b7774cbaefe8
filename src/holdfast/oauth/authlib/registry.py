"""What Authlib's registries of clients get from us, whichever framework they are for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from holdfast.oauth.authlib.secrecy import keep_secrets_out_of_logs
from holdfast.oauth.record import DEFAULT_TTL, milliseconds

if TYPE_CHECKING:
    from holdfast.settings import Settings


class StateRegistry:
    """Stands before Authlib's ``OAuth``, whose arguments it passes on.

    Args:
        settings: in place of those of the environment.
        states: the store. Default: one made of *settings* and *form_post*.
        ttl: seconds that a login may take.
        form_post: providers answer by ``response_mode=form_post``; see the store.

    Raises:
        ConfigurationError: the settings cannot work.
    """

    store_cls: ClassVar[type[Any]]
    integration_cls: ClassVar[type[Any]]

    def __init__(
        self,
        *args: Any,
        settings: Settings | None = None,
        states: Any = None,
        ttl: float = DEFAULT_TTL,
        form_post: bool = False,
        **kwargs: Any,
    ) -> None:
        milliseconds(ttl)
        keep_secrets_out_of_logs()
        self.states = states or self.store_cls(settings, form_post=form_post)
        own = {"states": self.states, "ttl": ttl, "expires_in": ttl}
        self.framework_integration_cls = type("StateIntegration", (self.integration_cls,), own)
        super().__init__(*args, **kwargs)

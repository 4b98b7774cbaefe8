"""Keeps the secrets of a login out of Authlib's debug log."""

from __future__ import annotations

import logging

_LOGGERS = (
    "authlib.integrations.base_client.sync_app",
    "authlib.integrations.base_client.async_app",
)
# The message itself holds the value, so no argument can be masked in its place.
_TELLING = ("Using code_verifier: ", "Fetch request token: ")


class _Masked(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        for words in _TELLING:
            if isinstance(record.msg, str) and record.msg.startswith(words):
                record.msg = f"{words}(not shown)"
        return True


_masked = _Masked()


def keep_secrets_out_of_logs() -> None:
    """Have the PKCE verifier and OAuth 1 request tokens masked; again changes nothing."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_masked)

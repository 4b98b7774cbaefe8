"""Whether a log tells a secret: every random text that was made, looked for in every log line.

It hears the loggers of holdfast down to the level of debugging, whatever a test asks of them.
"""

from __future__ import annotations

import logging
import re
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Locators have 24 characters and secrets 32: base64url, which no word boundary ends for certain.
_SIZES = (24, 32)
_RANDOM = re.compile(r"[A-Za-z0-9_-]{24,}")


class Ear(logging.Handler):
    """Remembers which random texts were made, and which log lines were written."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.made: set[str] = set()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line as a log file would have it, traceback included."""
        self.heard.append(_LIKE_A_FILE.format(record))

    def told(self) -> list[str]:
        """Return the secrets in the lines heard since the last call."""
        heard, self.heard = self.heard, []
        return [secret for line in heard for secret in self._in(line)]

    def _in(self, line: str) -> Iterator[str]:
        for run in _RANDOM.findall(line):
            for size in _SIZES:
                for start in range(len(run) - size + 1):
                    if run[start : start + size] in self.made:
                        yield run[start : start + size]


_LIKE_A_FILE = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")


def listen() -> Ear:
    """Begin to hear the loggers of holdfast, for the rest of the process."""
    ear, real = Ear(), secrets.token_urlsafe

    def token_urlsafe(nbytes: int | None = None) -> str:
        made = real(nbytes)
        ear.made.add(made)
        return made

    secrets.token_urlsafe = token_urlsafe
    logger = logging.getLogger("holdfast")
    logger.addHandler(ear)
    logger.setLevel(logging.DEBUG)
    return ear

"""A system that has no thread left for a while."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TOO_LARGE = 1 << 48
"""Bytes of a stack that fits into no address space."""


@contextlib.contextmanager
def no_threads() -> Iterator[None]:
    """Have every thread that is to begin meanwhile refused, as at the limit of a container."""
    before = threading.stack_size(TOO_LARGE)
    try:
        yield
    finally:
        threading.stack_size(before)

"""Browsers in front of either store, so that every behaviour is tested on both."""

from __future__ import annotations

from http.cookies import SimpleCookie
from typing import Any

import anyio.to_thread

from holdfast import OAuthStateStore, SyncOAuthStateStore

KEY = "a key of more than sixteen characters"


class Browser:
    """One browser: what it was told to keep, and how it asks."""

    def __init__(self, cookies: dict[str, str] | None = None) -> None:
        self.cookies = dict(cookies or {})
        self.seen: list[str] = []

    @property
    def line(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def keep(self, headers: list[tuple[str, str]]) -> None:
        """Do what ``Set-Cookie`` says."""
        for name, value in headers:
            if name == "Set-Cookie":
                self.seen.append(value)
                pair, _, attributes = value.partition(";")
                key, _, kept = pair.partition("=")
                if "1970" in attributes:
                    self.cookies.pop(key, None)
                else:
                    self.cookies[key] = kept

    def request(self, door: Door) -> dict[str, Any]:
        """Return a request of this browser, as it is now, for the kind of *door*."""
        if door.is_sync:
            return {"REQUEST_METHOD": "GET", "HTTP_COOKIE": self.line}
        return {"type": "http", "headers": [(b"cookie", self.line.encode())]}


class Door:
    """Either store, awaited."""

    def __init__(self, store: OAuthStateStore | SyncOAuthStateStore) -> None:
        self.store = store

    @property
    def is_sync(self) -> bool:
        return isinstance(self.store, SyncOAuthStateStore)

    async def issue(self, request: dict[str, Any], data: Any, **options: Any) -> str:
        store = self.store
        if isinstance(store, OAuthStateStore):
            return await store.issue(request, data, **options)
        return await anyio.to_thread.run_sync(lambda: store.issue(request, data, **options))

    async def begin(self, browser: Browser, data: dict[str, Any], **options: Any) -> str:
        """Answer a request of *browser* that begins a login."""
        request = browser.request(self)
        state = await self.issue(request, data, **options)
        browser.keep(self.store.cookie_headers(request))
        return state

    async def end(
        self, browser: Browser, state: str | None, **options: Any
    ) -> dict[str, Any] | None:
        """Answer a callback of *browser*."""
        store, request = self.store, browser.request(self)
        if isinstance(store, OAuthStateStore):
            return await store.consume(request, state, **options)
        return await anyio.to_thread.run_sync(lambda: store.consume(request, state, **options))


def attributes(header: str) -> dict[str, str]:
    """Return the attributes of a ``Set-Cookie`` value, in lower case."""
    cookie: SimpleCookie = SimpleCookie()
    cookie.load(header)
    [morsel] = cookie.values()
    return {name: str(value) for name, value in morsel.items() if value}

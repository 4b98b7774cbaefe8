"""The provider of the example, running, and a person who logs in there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import httpx

if TYPE_CHECKING:
    from types import ModuleType

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "oauth_login.py"


def example() -> ModuleType:
    """Return the module of the example."""
    spec = importlib.util.spec_from_file_location("oauth_login", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def consent(url: str, name: str = "Ada") -> str:
    """Log in on the provider's page at *url*; return the callback that it redirects to."""
    answer = httpx.post(url, data={"name": name})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def registered(oauth: Any, issuer: str) -> Any:
    """Register the provider; return the client."""
    return oauth.register(
        "provider",
        client_id="shop",
        client_secret="the shop's own secret",
        server_metadata_url=f"{issuer}/.well-known/openid-configuration",
        client_kwargs={"scope": "openid profile", "code_challenge_method": "S256"},
    )


def query(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))

"""A login by OpenID Connect, with PKCE and a nonce: the application, and a provider to try it with.

    python examples/oauth_login.py        # then open http://127.0.0.1:8000 (PORT changes it)

The provider is started beside the application, on a port of its own. It knows one client and
believes whatever name it is told: it is here to be read and tried, never to be used.
"""

import contextlib
import hashlib
import html
import os
import secrets
import socket
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from holdfast import SessionMiddleware, get_session
from holdfast.oauth.authlib.starlette import OAuth, OAuthError

CLIENT_ID, CLIENT_SECRET = "shop", "the shop's own secret"


# --- the application ------------------------------------------------------------------------------


def create_app(issuer: str, *, form_post: bool = False) -> Starlette:
    """Return the application. In one of yours, `oauth` and the handlers are at module level."""
    oauth = OAuth(form_post=form_post)
    oauth.register(
        "provider",
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        server_metadata_url=f"{issuer}/.well-known/openid-configuration",
        client_kwargs={"scope": "openid profile", "code_challenge_method": "S256"},
    )

    async def home(request: Request) -> Response:
        name = get_session(request).get("name")
        if name is None:
            return HTMLResponse('<p>Nobody. <a href="/login">Log in</a>')
        greeting = f"<p>Hello, <b>{html.escape(name)}</b>."
        return HTMLResponse(
            f'{greeting}<form action="/logout" method=post><button>Log out</button>'
        )

    async def log_in(request: Request) -> Response:
        extra = {"response_mode": "form_post"} if form_post else {}
        callback = request.url_for("callback")
        redirect: Response = await oauth.provider.authorize_redirect(request, callback, **extra)
        return redirect

    async def callback(request: Request) -> Response:
        try:
            token = await oauth.provider.authorize_access_token(request)
        except OAuthError:
            # Used before, too old, or begun in another browser. A link, and no redirect: a page
            # that sends itself round in circles is worse than one more click.
            return HTMLResponse('<p>This login has ended. <a href="/login">Again</a>', 400)
        session = get_session(request)
        session["user_id"] = token["userinfo"]["sub"]  # naming the user gives a new cookie
        session["name"] = token["userinfo"]["name"]
        return RedirectResponse("/", 303)

    async def log_out(request: Request) -> Response:
        get_session(request).invalidate()
        return RedirectResponse("/", 303)

    return Starlette(
        routes=[
            Route("/", home),
            Route("/login", log_in),
            Route("/callback", callback, methods=["GET", "POST"]),
            Route("/logout", log_out, methods=["POST"]),
        ],
        middleware=[Middleware(SessionMiddleware)],
    )


# --- the provider ---------------------------------------------------------------------------------


def create_provider() -> Starlette:
    """Return a small OpenID provider: discovery, a login page, and tokens for codes, once each."""
    key = RSAKey.generate_key(2048, {"kid": "1", "use": "sig"})
    codes: dict[str, dict[str, Any]] = {}

    async def metadata(request: Request) -> Response:
        issuer = str(request.base_url).rstrip("/")
        return JSONResponse(
            {
                "issuer": issuer,
                "authorization_endpoint": f"{issuer}/authorize",
                "token_endpoint": f"{issuer}/token",
                "jwks_uri": f"{issuer}/jwks",
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def jwks(_: Request) -> Response:
        return JSONResponse({"keys": [key.as_dict(private=False)]})

    async def ask(request: Request) -> Response:
        return HTMLResponse(
            '<form method=post><input name=name value=Ada aria-label="Your name">'
            "<button>Log in</button></form>"
        )

    async def answer(request: Request) -> Response:
        asked = request.query_params
        async with request.form() as form:
            name = str(form["name"])
        code = secrets.token_urlsafe(16)
        codes[code] = {**asked, "name": name, "until": time.time() + 60}
        told = {"code": code, "state": asked["state"]}
        if asked.get("response_mode") != "form_post":
            return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(told)}", 303)
        fields = "".join(
            f'<input type=hidden name={field} value="{html.escape(value)}">'
            for field, value in told.items()
        )
        target = html.escape(asked["redirect_uri"])
        send = "<script>document.forms[0].submit()</script>"
        return HTMLResponse(f'<form method=post action="{target}">{fields}</form>{send}')

    async def token(request: Request) -> Response:
        async with request.form() as form:
            given = {field: str(value) for field, value in form.items()}
        asked = codes.pop(given.get("code", ""), None)
        verifier = given.get("code_verifier", "").encode()
        digest = urlsafe_b64encode(hashlib.sha256(verifier).digest()).rstrip(b"=").decode()
        if (
            asked is None
            or asked["until"] < time.time()
            or asked["redirect_uri"] != given.get("redirect_uri")
            or asked["code_challenge"] != digest
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            "iss": str(request.base_url).rstrip("/"),
            "sub": hashlib.sha256(asked["name"].encode()).hexdigest()[:16],
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            "name": asked["name"],
        }
        id_token = jwt.encode({"alg": "RS256", "kid": "1"}, claims, key)
        access_token = secrets.token_urlsafe(16)
        return JSONResponse(
            {"access_token": access_token, "token_type": "Bearer", "id_token": id_token}
        )

    return Starlette(
        routes=[
            Route("/.well-known/openid-configuration", metadata),
            Route("/jwks", jwks),
            Route("/authorize", ask),
            Route("/authorize", answer, methods=["POST"]),
            Route("/token", token, methods=["POST"]),
        ]
    )


@contextlib.contextmanager
def running(app: Starlette) -> Iterator[str]:
    """Serve *app* from a thread, on a free port, and give its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(5)


def main(*, form_post: bool = False) -> None:
    """Serve both until stopped."""
    with running(create_provider()) as issuer:
        app = create_app(issuer, form_post=form_post)
        uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))


if __name__ == "__main__":
    main()

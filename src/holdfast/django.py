"""Django's sessions on holdfast's stores: ``SESSION_ENGINE = "holdfast.django"``.

Thin: what a session is lies in ``frameworks/django_store.py``, how it is configured in
``frameworks/django.py``. Here is what the middleware does: cookies and refusals.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.contrib.sessions.middleware import SessionMiddleware as _DjangoMiddleware
from django.http import HttpResponse

from holdfast.errors import SessionUnavailable
from holdfast.frameworks.django import engine, register_checks
from holdfast.frameworks.django_store import SessionStore
from holdfast.sessions.cookie import NoCredential, Presented, candidates
from holdfast.sessions.doors.conversation import UNREACHABLE
from holdfast.sessions.doors.wsgi import connection_of
from holdfast.startup import RETRY_AFTER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest

__all__ = ["SessionMiddleware", "SessionStore"]

register_checks()


class SessionMiddleware(_DjangoMiddleware):  # type: ignore[misc]
    """Django's, which answers 503 where a session cannot be reached, and keeps the cookie.

    It takes the place of ``django.contrib.sessions.middleware.SessionMiddleware``.

    Raises:
        ConfigurationError: holdfast's variables cannot work, told when the server starts.
    """

    def __init__(self, get_response: Callable[..., Any]) -> None:
        super().__init__(get_response)
        self.SessionStore = SessionStore
        engine()

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        """Give the request its session, unless nothing may be served."""
        connection = connection_of(request.META)
        ambiguous = _leave_ours(request.COOKIES, connection["headers"])
        super().process_request(request)
        request.session.connection = connection
        if not engine().may_serve(request.META):
            return _unreachable()
        importer = engine().door.importer
        if importer is not None and not ambiguous:
            request.session.bring(importer)
        return None

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer for a view whose session cannot be reached."""
        del request
        return _unreachable(exception) if isinstance(exception, SessionUnavailable) else None

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Save the session, as Django's does, or say that it cannot be saved."""
        if response.status_code == 500 and request.session.refused:
            # Raised outside of the view, where Django has made 500 of it.
            return _unreachable()
        # Who replaces it by something else has that saved by Django alone.
        session = getattr(request, "session", None)
        ours = session if isinstance(session, SessionStore) else None
        try:
            if ours is not None:
                _prepare(request, response, ours)
            response = super().process_response(request, response)
        except SessionUnavailable as error:
            return _unreachable(error)
        if ours is not None:
            _tell_browser(response, ours)
        return response


def _prepare(request: HttpRequest, response: HttpResponse, session: SessionStore) -> None:
    """Do what Django's sessions do not, before it saves *session*."""
    if django_settings.SESSION_SAVE_EVERY_REQUEST and session.session_key is not None:
        # Django looks at it only after it has asked whether it is empty, which that may change.
        session.get_expiry_age()
    # Of any other answer nothing is saved.
    if response.status_code < 500:
        session.renew_for_another_user()
    if session.cookie_stays:
        # Django removes a cookie that opens nothing, and it may be as good as ever elsewhere.
        request.COOKIES.pop(django_settings.SESSION_COOKIE_NAME, None)


def _tell_browser(response: HttpResponse, session: SessionStore) -> None:
    """Leave a browser its newer cookie; sign anew the one that an older key has signed."""
    name = django_settings.SESSION_COOKIE_NAME
    if name not in response.cookies:
        _sign_anew(response, session, name)
    elif session.in_grace:
        # The browser has a newer one, or is about to get it.
        del response.cookies[name]


def _sign_anew(response: HttpResponse, session: SessionStore, name: str) -> None:
    found = session.signed_before
    if found is not None and response.status_code < 500 and session.is_newest(found[0]):
        presented, ends_at = found
        closed = session.get_expire_at_browser_close()
        response.set_cookie(
            name,
            engine().setup.signer.sign(presented.credential),
            max_age=None if closed else max(int(ends_at - time.time()), 0),
            domain=django_settings.SESSION_COOKIE_DOMAIN,
            path=django_settings.SESSION_COOKIE_PATH,
            secure=django_settings.SESSION_COOKIE_SECURE,
            httponly=django_settings.SESSION_COOKIE_HTTPONLY,
            samesite=django_settings.SESSION_COOKIE_SAMESITE,
        )


def _leave_ours(cookies: dict[str, str], headers: list[tuple[bytes, bytes]]) -> bool:
    """Leave in *cookies*, where several have the session's name, the one that is ours.

    Django takes the last, whoever set it; and where that names no session, ours is removed.

    Returns:
        Whether two different ones are ours, so that none is believed.
    """
    name = django_settings.SESSION_COOKIE_NAME
    raw = name.encode("latin-1")
    if len(candidates(headers, raw)) < 2:
        return False
    answer = engine().door.answer_of(headers, raw)
    if isinstance(answer, Presented):
        cookies[name] = engine().setup.signer.sign(answer.credential)
    elif answer is NoCredential.AMBIGUOUS:
        # As if there were none: without ours the browser would be left with the other.
        cookies.pop(name, None)
    return answer is NoCredential.AMBIGUOUS


def _unreachable(error: Exception | None = None) -> HttpResponse:
    retry = error.retry_after if isinstance(error, SessionUnavailable) else RETRY_AFTER_SECONDS
    headers = {"Retry-After": str(retry), "Cache-Control": "no-store"}
    return HttpResponse(UNREACHABLE, "text/plain; charset=utf-8", 503, headers=headers)

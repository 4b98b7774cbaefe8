"""Where a value is found: names, files, precedence, and names that are nobody's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from holdfast.errors import ConfigurationError
from holdfast.settings import Settings, fill_environment

if TYPE_CHECKING:
    from pathlib import Path


def url_of(settings: Settings) -> str | None:
    return settings.redis_url.get_secret_value() if settings.redis_url else None


def test_the_environment_of_the_process_is_read_when_settings_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOLDFAST_SESSION_COOKIE", "sid")
    assert Settings().session_cookie == "sid"
    monkeypatch.setenv("HOLDFAST_SESSION_COOKIE", "other")
    assert Settings().session_cookie == "other"


@pytest.mark.parametrize(
    ("environ", "url", "source"),
    [
        ({"REDIS_URL": "redis://a"}, "redis://a", "REDIS_URL"),
        (
            {"REDIS_URL": "redis://a", "HOLDFAST_REDIS_URL": "redis://b"},
            "redis://b",
            "HOLDFAST_REDIS_URL",
        ),
        ({"REDIS_URL": "redis://a", "HOLDFAST_REDIS_URL": " "}, "redis://a", "REDIS_URL"),
        ({"REDIS_URL": "nonsense", "HOLDFAST_REDIS_URL": "off"}, None, "HOLDFAST_REDIS_URL"),
        ({"REDIS_URL": ""}, None, "default"),
        ({"redis_url": "redis://a", "SECRET_KEY": "x"}, None, "default"),
    ],
)
def test_the_prefixed_name_beats_the_bare_one_and_empty_is_unset(
    environ: dict[str, str], url: str | None, source: str
) -> None:
    settings = Settings(environ=environ)
    assert url_of(settings) == url
    assert settings.source("redis_url") == source


def test_the_bare_switch_of_streams_is_known() -> None:
    settings = Settings(environ={"REDIS_STREAM_ENABLED": "false"})
    assert settings.stream_enabled is False
    assert settings.source("stream_enabled") == "REDIS_STREAM_ENABLED"


@pytest.mark.parametrize("name", ["HOLDFAST_REDIS_URL", "REDIS_URL"])
def test_a_value_is_read_from_a_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("\ufeffredis://:pässword@h\r\n", encoding="utf-8")
    settings = Settings(environ={f"{name}_FILE": f" {path} "})
    assert url_of(settings) == "redis://:pässword@h"
    assert settings.source("redis_url") == f"{name}_FILE ({path})"


def test_a_list_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("the-newest-of-all-keys,older\n")
    settings = Settings(environ={"HOLDFAST_SECRET_KEY_FILE": str(path)})
    assert settings.signing_keys() == ("the-newest-of-all-keys", "older")


def test_a_wrong_value_from_a_file_is_told_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "age"
    path.write_text("old")
    with pytest.raises(ConfigurationError) as caught:
        Settings(environ={"HOLDFAST_SESSION_MAX_AGE_FILE": str(path)})
    told = str(caught.value)
    assert told.startswith(f"HOLDFAST_SESSION_MAX_AGE_FILE ({path})='old': must be whole seconds")


def test_an_empty_file_is_as_unset(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.write_text("\n")
    settings = Settings(environ={"HOLDFAST_REDIS_URL_FILE": str(path), "REDIS_URL": "redis://a"})
    assert settings.source("redis_url") == "REDIS_URL"


def test_a_variable_and_its_file_at_once_are_an_error(tmp_path: Path) -> None:
    environ = {"HOLDFAST_SECRET_KEY": "s" * 20, "HOLDFAST_SECRET_KEY_FILE": str(tmp_path)}
    with pytest.raises(ConfigurationError) as caught:
        Settings(environ=environ)
    assert str(caught.value) == (
        "HOLDFAST_SECRET_KEY and HOLDFAST_SECRET_KEY_FILE are both set: remove one of them"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"\xff\xfe\x00", "it is no UTF-8 text")],
)
def test_an_unreadable_file_is_told_with_its_variable(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=reason) as caught:
        Settings(environ={"REDIS_URL_FILE": str(path)})
    assert str(caught.value).startswith(f"REDIS_URL_FILE={path}: cannot be read: ")


def test_a_folder_or_an_impossible_path_is_told_too(tmp_path: Path) -> None:
    for path in (str(tmp_path), "a\x00b"):
        with pytest.raises(ConfigurationError, match="HOLDFAST_APP_FILE"):
            Settings(environ={"HOLDFAST_APP_FILE": path})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("HOLDFAST_REDIS_ULR", "; did you mean HOLDFAST_REDIS_URL?"),
        ("HOLDFAST_SESION_MAX_AGE", "; did you mean HOLDFAST_SESSION_MAX_AGE?"),
        ("HOLDFAST_SECRETKEY_FILE", "; did you mean HOLDFAST_SECRET_KEY_FILE?"),
        ("holdfast_redis_url", "; did you mean HOLDFAST_REDIS_URL?"),
        ("HOLDFAST_XYZZY", ""),
        ("HOLDFAST_REDIS_STREAM_ENABLED", "; did you mean HOLDFAST_STREAM_ENABLED?"),
    ],
)
def test_an_unknown_name_is_a_warning_with_the_nearest_known_one(name: str, hint: str) -> None:
    settings = Settings(environ={name: "its-value"})
    assert settings.warnings == (f"{name} is no variable of holdfast and is ignored{hint}",)


@pytest.mark.parametrize(
    "name",
    [
        "HOLDFAST_PORT",
        "HOLDFAST_PORT_80_TCP_ADDR",
        "HOLDFAST_SERVICE_HOST",
        "HOLDFAST_TEST_REDIS_URL",
        "HOLDFAST_REDIS_URL_FILE",
        "REDIS_URL_FILE",
        "HOLD",
        "PATH",
    ],
)
def test_names_of_others_are_left_alone(name: str) -> None:
    assert Settings(environ={name: ""}).warnings == ()


def test_filling_the_environment_keeps_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_SESSION_COOKIE", "said")
    monkeypatch.setenv("HOLDFAST_SECRET_KEY_FILE", "/run/secrets/key")
    monkeypatch.setenv("HOLDFAST_APP", " ")
    # Registered with monkeypatch, so that what is filled in is taken away again.
    monkeypatch.setenv("HOLDFAST_SESSION_PATH", "")
    fill_environment(
        {
            "HOLDFAST_SESSION_COOKIE": "filled",
            "HOLDFAST_SECRET_KEY": "filled",
            "HOLDFAST_APP": "filled:app",
            "HOLDFAST_SESSION_PATH": "/filled",
            "HOLDFAST_SESSION_DOMAIN": None,
        },
        ".env",
    )
    assert os.environ["HOLDFAST_SESSION_COOKIE"] == "said"
    assert "HOLDFAST_SECRET_KEY" not in os.environ
    assert "HOLDFAST_SESSION_DOMAIN" not in os.environ
    monkeypatch.delenv("HOLDFAST_SECRET_KEY_FILE")
    settings = Settings()
    assert settings.app == "filled:app"
    assert settings.source("session_path") == "HOLDFAST_SESSION_PATH (.env)"
    assert settings.source("session_cookie") == "HOLDFAST_SESSION_COOKIE"

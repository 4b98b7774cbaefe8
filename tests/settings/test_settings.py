"""Settings as a user meets them: values, sources, errors, and secrets that stay secret."""

from __future__ import annotations

import copy
import logging
import pickle
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import errors
from holdfast.settings import PREFIX, Settings, Variable

SECRET = "correct-horse-battery-staple"
TABLE = {variable.field: variable for variable in Settings.table()}


def settings(**variables: str) -> Settings:
    return Settings(environ={PREFIX + name.upper(): text for name, text in variables.items()})


def refusal(environ: dict[str, str] | None = None, /, **arguments: Any) -> str:
    with pytest.raises(errors.ConfigurationError) as caught:
        Settings(environ=environ or {}, **arguments)
    return str(caught.value)


def python(program: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, check=True, timeout=30
    )


# --- values ---------------------------------------------------------------------------------------


def test_with_nothing_set_everything_is_a_default() -> None:
    nothing = Settings(environ={})
    assert nothing.redis_url is None
    assert nothing.redis_timeout == 0.25
    assert nothing.session_max_age == 1209600
    assert nothing.stream_key == "run:{run_id}:events"
    assert {nothing.source(name) for name in TABLE} == {"default"}
    assert not any(nothing.is_set(name) for name in TABLE)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("redis_timeout", "1", 1.0),
        ("redis_timeout", " 0.5\n", 0.5),
        ("redis_required", "false", False),
        ("redis_wait", "2", 2),
        ("session_https_only", "TRUE", True),
        ("session_https_only", " on ", True),
        ("session_same_site", "Strict", "strict"),
        ("session_on_outage", "ReadOnly", "readonly"),
        ("session_store", "shop.stores:make_store", "shop.stores:make_store"),
        ("session_cookie", "sid", "sid"),
        ("session_domain", ".example.com", ".example.com"),
        ("session_max_age", "0", 0),
        ("session_fresh_keys", "a, b,,c ", ("a", "b", "c")),
        ("session_import", "Django,starlette", ("django", "starlette")),
        ("session_exclude", "/static/,/", ("/static", "/")),
        ("stream_rollout", "100", 100),
        ("stream_mount", "/a/b/", "/a/b"),
        ("stream_access", "shop.auth:Rules.allow", "shop.auth:Rules.allow"),
        ("stream_allowed_origins", "https://A.example/, *", ("https://a.example", "*")),
        ("stream_capture", "/chat", ("/chat",)),
        ("app", "shop.main:app", "shop.main:app"),
    ],
)
def test_text_of_the_environment_becomes_a_value(name: str, text: str, value: object) -> None:
    given = settings(**{name: text})
    assert getattr(given, name) == value
    assert given.source(name) == PREFIX + name.upper()
    assert given.is_set(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("redis_timeout", "0"),
        ("redis_timeout", "soon"),
        ("redis_timeout", "nan"),
        ("redis_timeout", "inf"),
        ("redis_required", "maybe"),
        ("redis_wait", "-1"),
        ("redis_wait", "1.5"),
        ("key_prefix", "a{b}"),
        ("session_store", "somewhere"),
        ("session_store", "shop.stores:"),
        ("session_on_outage", "open"),
        ("session_cookie", "a b"),
        ("session_cookie", "a;b"),
        ("session_cookie", "café"),
        ("session_path", "app"),
        ("session_path", "/a;b"),
        ("session_path", "/a\r\nSet-Cookie: x=y"),
        ("session_path", "/a\x01"),
        ("session_domain", "a;b"),
        ("session_domain", "a\nb"),
        ("session_same_site", "maybe"),
        ("session_max_age", "-1"),
        ("session_idle_timeout", "1h"),
        ("session_max_bytes", "0"),
        ("session_import", "starlette,rails"),
        ("session_exclude", "static"),
        ("session_exclude", "/a?b"),
        ("stream_enabled", "2"),
        ("stream_rollout", "101"),
        ("stream_rollout", "-1"),
        ("stream_channel", "run"),
        ("stream_mount", "streams"),
        ("stream_mount", "/"),
        ("stream_mount", "//"),
        ("stream_mount", "/a?b"),
        ("stream_mount", "/{a}"),
        ("stream_key", "run:{run_id}:{run_id}"),
        ("stream_key", "{run_id}{x}"),
        ("stream_key", "run:{run}"),
        ("stream_maxlen", "0"),
        ("stream_heartbeat", "0"),
        ("stream_retention", "-1"),
        ("stream_access", "everyone"),
        ("stream_allowed_origins", "app.example.com"),
        ("stream_allowed_origins", "https://a.example/path"),
        ("stream_allowed_origins", "null"),
        ("stream_capture", "chat"),
        ("app", "shop.main"),
    ],
)
def test_a_wrong_value_is_told_with_variable_value_and_what_is_allowed(
    name: str, text: str
) -> None:
    told = refusal({PREFIX + name.upper(): text})
    assert told.startswith(f"{PREFIX}{name.upper()}=")
    assert told.endswith(TABLE[name].allowed)
    assert "\n" not in told


@pytest.mark.parametrize("text", ["1000000001", "9" * 30])
def test_who_asks_for_too_much_is_told_how_much_there_is(text: str) -> None:
    allowed = TABLE["session_max_age"].allowed
    told = refusal({"HOLDFAST_SESSION_MAX_AGE": text})
    assert told == f"HOLDFAST_SESSION_MAX_AGE={text!r}: must be {allowed}, at most 1000000000"


@given(st.integers(0, 10**9))
def test_every_whole_number_of_seconds_is_taken_as_it_is(number: int) -> None:
    assert settings(session_idle_timeout=str(number)).session_idle_timeout == number


@given(st.floats(0.001, 10**9))
def test_every_duration_is_taken_as_it_is(number: float) -> None:
    assert settings(stream_wait=repr(number)).stream_wait == number


def test_all_wrong_values_are_told_at_once_clashes_too() -> None:
    told = refusal(
        {
            "HOLDFAST_REDIS_TIMEOUT": "soon",
            "HOLDFAST_SESSION_SAME_SITE": "none",
            "HOLDFAST_STREAM_JOURNAL_FILE": "/no/such/file",
            "HOLDFAST_SECRET_KEY": "short",
        },
        stream_rollout=200,
    )
    first, *lines = told.split("\n")
    assert first == "5 settings cannot work:"
    assert [line.split()[0] for line in lines] == [
        "HOLDFAST_REDIS_TIMEOUT='soon':",
        "stream_rollout=200:",
        "HOLDFAST_STREAM_JOURNAL_FILE=/no/such/file:",
        "HOLDFAST_SESSION_SAME_SITE=none",
        "HOLDFAST_SECRET_KEY",
    ]


def test_a_clash_with_a_wrong_value_is_not_told_twice() -> None:
    told = refusal({"HOLDFAST_SESSION_SAME_SITE": "none", "HOLDFAST_SESSION_HTTPS_ONLY": "si"})
    assert told.count("\n") == 0
    assert "HTTPS_ONLY='si'" in told


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"session_cookie": "__Host-a"}, "needs HOLDFAST_SESSION_HTTPS_ONLY=true"),
        ({"session_cookie": "__secure-a"}, "needs HOLDFAST_SESSION_HTTPS_ONLY=true"),
        (
            {"session_cookie": "__Host-a", "session_https_only": "1", "session_path": "/app"},
            "needs HOLDFAST_SESSION_PATH=/",
        ),
        (
            {"session_cookie": "__Host-a", "session_https_only": "1", "session_domain": "a.b"},
            "allows no HOLDFAST_SESSION_DOMAIN",
        ),
        ({"session_same_site": "none"}, "needs HOLDFAST_SESSION_HTTPS_ONLY=true"),
        ({"session_partitioned": "1"}, "needs HOLDFAST_SESSION_HTTPS_ONLY=true"),
        ({"session_store": "redis"}, "needs HOLDFAST_REDIS_URL"),
        ({"redis_required": "1", "redis_url": "off"}, "needs HOLDFAST_REDIS_URL"),
        ({"session_encryption_strict": "1"}, "needs HOLDFAST_SESSION_ENCRYPTION_KEY"),
    ],
)
def test_values_that_cannot_work_together_are_refused(variables: dict[str, str], told: str) -> None:
    assert told in refusal({PREFIX + name.upper(): text for name, text in variables.items()})


def test_values_that_work_together_are_not_refused() -> None:
    works = settings(
        session_cookie="__Host-session",
        session_https_only="true",
        session_same_site="none",
        session_partitioned="true",
        session_store="redis",
        redis_required="true",
        redis_url="redis://localhost",
        session_encryption_strict="true",
        session_encryption_key=SECRET,
    )
    assert works.session_cookie == "__Host-session"


# --- arguments ------------------------------------------------------------------------------------


def test_an_argument_beats_the_environment_right_or_wrong() -> None:
    environ = {"HOLDFAST_SESSION_MAX_AGE": "x", "HOLDFAST_SESSION_COOKIE_FILE": "/no/such/file"}
    given = Settings(environ=environ, session_max_age=60, session_cookie="sid")
    assert (given.session_max_age, given.session_cookie) == (60, "sid")
    assert given.source("session_max_age") == "argument"


def test_an_argument_that_is_none_turns_a_variable_off() -> None:
    given = Settings(environ={"REDIS_URL": "redis://h"}, redis_url=None)
    assert given.redis_url is None
    assert given.source("redis_url") == "argument"


@pytest.mark.parametrize(
    ("argument", "keys"),
    [
        (SECRET, (SECRET,)),
        ("with,commas,in,it", ("with,commas,in,it",)),
        ([SECRET, "older"], (SECRET, "older")),
    ],
)
def test_a_key_in_code_is_one_key_or_a_sequence(argument: Any, keys: tuple[str, ...]) -> None:
    assert Settings(environ={}, secret_key=argument).signing_keys() == keys


def test_keys_in_the_environment_are_split_at_commas() -> None:
    assert settings(secret_key=f" {SECRET} , old ").signing_keys() == (SECRET, "old")


@pytest.mark.parametrize("argument", ["", ["", SECRET], [SECRET, b""]])
def test_an_empty_key_in_code_is_refused(argument: Any) -> None:
    assert refusal(secret_key=argument).endswith("must not hold an empty key")


@pytest.mark.parametrize("argument", [17, [17], {"a": 1}, object()])
def test_a_key_of_another_type_is_refused_and_not_shown(argument: Any) -> None:
    if argument == {"a": 1}:
        argument = [{"a": 1}]
    assert refusal(secret_key=argument).startswith("secret_key (not shown): must be one or more")


@pytest.mark.parametrize(
    ("name", "value"), [("session_exclude", 5), ("session_path", b"/\xff"), ("redis_url", 5)]
)
def test_an_argument_of_another_type_is_refused(name: str, value: object) -> None:
    assert name in refusal(**{name: value})


def test_a_list_argument_may_be_a_sequence_text_or_none() -> None:
    def excluded(value: Any) -> tuple[str, ...]:
        return Settings(environ={}, session_exclude=value).session_exclude

    assert excluded(["/a", "/b"]) == excluded("/a,/b") == ("/a", "/b")
    assert excluded(None) == ()


def test_an_unknown_argument_is_told_with_the_nearest_name() -> None:
    assert refusal(sesion_max_age=1) == (
        "sesion_max_age: there is no such setting; did you mean session_max_age?"
    )
    assert refusal(xyzzy=1) == "xyzzy: there is no such setting"


def test_a_short_key_is_refused_in_the_environment_and_a_warning_in_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = refusal({"HOLDFAST_SECRET_KEY": "fifteen-letters"})
    assert "at least 16 characters" in told
    assert "token_urlsafe" in told
    assert "fifteen" not in told
    given = Settings(environ={}, secret_key="fifteen-letters")
    assert given.warnings == ("the secret key is short: use at least 16 random characters",)
    assert settings(secret_key=f"{SECRET},old").warnings == ()


def test_override_keeps_the_rest_and_checks_the_whole() -> None:
    base = settings(secret_key=SECRET, session_cookie="sid", session_max_age="60")
    changed = base.override(session_max_age=5)
    assert (changed.session_cookie, changed.session_max_age) == ("sid", 5)
    assert changed.source("session_cookie") == "HOLDFAST_SESSION_COOKIE"
    assert changed.source("session_max_age") == "argument"
    assert base.session_max_age == 60
    with pytest.raises(errors.ConfigurationError, match="needs HOLDFAST_SESSION_HTTPS_ONLY"):
        base.override(session_same_site="none")


# --- Redis ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["off", "OFF", " off "])
def test_off_means_memory_even_if_the_bare_name_is_set(text: str) -> None:
    given = Settings(environ={"HOLDFAST_REDIS_URL": text, "REDIS_URL": "redis://h"})
    assert given.redis_url is None
    assert given.redis_target is None
    assert given.redis_url_masked is None
    assert given.is_set("redis_url")


def test_the_redis_url_is_kept_whole_for_the_link_and_masked_for_people() -> None:
    given = settings(redis_url=f"redis://me:{SECRET}@h:1/2?client_name=x")
    assert given.redis_url is not None
    assert given.redis_url.get_secret_value() == f"redis://me:{SECRET}@h:1/2?client_name=x"
    assert given.redis_url_masked == given.shown("redis_url") == "redis://me:***@h:1/2"
    assert given.redis_target is not None
    assert given.redis_target.password == SECRET


def test_an_ignored_option_of_the_url_is_a_warning() -> None:
    given = Settings(environ={"REDIS_URL": "redis://h?socket_timeout=9&decode_responses=1"})
    (warning,) = given.warnings
    assert warning.startswith("REDIS_URL: ")
    assert warning.endswith("ignored: decode_responses, socket_timeout")


# --- keys that sign -------------------------------------------------------------------------------


def test_with_redis_whatever_signs_needs_a_key_and_is_told_how_to_make_one() -> None:
    given = settings(redis_url="redis://h")
    with pytest.raises(errors.ConfigurationError, match="HOLDFAST_SECRET_KEY") as caught:
        given.signing_keys()
    assert 'python -c "import secrets; print(secrets.token_urlsafe(32))"' in str(caught.value)


def test_in_memory_one_random_key_serves_everybody_and_forked_children() -> None:
    done = python(
        """
import os
from holdfast.settings import Settings
key = Settings(session_max_age=5).signing_keys()
assert Settings().signing_keys() == key and len(key[0]) >= 32
child = os.fork()
if child == 0:
    os._exit(0 if Settings().signing_keys() == key else 1)
print(os.waitpid(child, 0)[1])
"""
    )
    assert done.stdout == "0\n"
    assert done.stderr.count("HOLDFAST_SECRET_KEY is not set") == 1


def test_a_random_key_is_the_same_for_whoever_asks() -> None:
    (key,) = settings().signing_keys()
    assert settings(session_max_age="5").signing_keys() == (key,)
    assert key not in repr(settings())


# --- several workers ------------------------------------------------------------------------------


def test_memory_is_refused_where_several_workers_are_announced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(errors.ConfigurationError, match="4 worker processes and no Redis"):
        settings().check_workers(4)
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    with pytest.raises(errors.ConfigurationError, match="HOLDFAST_REDIS_URL"):
        settings().check_workers()


def test_memory_for_several_workers_is_a_warning_where_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings(session_store="memory").check_workers(77)
    assert "HOLDFAST_SESSION_STORE=memory with 77 worker processes" in caplog.text


@pytest.mark.parametrize("text", ["", "1", "many"])
def test_one_worker_may_use_memory(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", text)
    settings().check_workers()


def test_several_workers_may_share_redis() -> None:
    settings(redis_url="redis://h").check_workers(4)


# --- being a value --------------------------------------------------------------------------------


def test_settings_are_equal_by_value_whoever_said_it() -> None:
    one, other = settings(session_max_age="60"), Settings(environ={}, session_max_age=60)
    assert one == other
    assert hash(one) == hash(other)
    assert one != settings()
    assert one != "settings"
    assert copy.copy(one) == copy.deepcopy(one) == one


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(settings(), "session_max_age", 5)  # noqa: B010 - mypy knows that it is frozen


def test_a_publish_token_that_can_be_guessed_is_told() -> None:
    long, short = "x" * 16, "x" * 15
    assert settings(stream_publish_token=f"{long},{long}2").warnings == ()
    (told,) = settings(stream_publish_token=f"{long},{short}").warnings
    assert told == "a publish token is short: use at least 16 random characters"


def secretive() -> Settings:
    return settings(
        secret_key=f"{SECRET},{SECRET}-2",
        redis_url=f"redis://me:{SECRET}@h/0?sentinel_password={SECRET}",
        session_encryption_key=SECRET,
        stream_publish_token=SECRET,
    )


def test_no_view_of_settings_shows_a_secret() -> None:
    given = secretive()
    views = [
        repr(given),
        str(given),
        f"{given}",
        repr(given.model_dump()),
        given.model_dump_json(),
        repr(given.redis_target),
        repr(vars(given)),
        *(given.shown(name) for name in TABLE),
    ]
    assert not [view for view in views if SECRET in view]
    assert repr(given).startswith("Settings(secret_key=***,***, redis_url=redis://me:***@h:6379/0,")


def test_settings_with_secrets_are_not_pickled_and_others_come_back_whole() -> None:
    with pytest.raises(TypeError, match="secret_key, redis_url") as caught:
        pickle.dumps(secretive())
    assert SECRET not in str(caught.value)
    given = settings(session_max_age="60")
    back = pickle.loads(pickle.dumps(given))
    assert back == given
    assert back.source("session_max_age") == "HOLDFAST_SESSION_MAX_AGE"


@pytest.mark.parametrize(
    "environ",
    [
        {"HOLDFAST_REDIS_URL": f"redis://:{SECRET}@h:port"},
        {"REDIS_URL": f"redis://h/0/{SECRET}@x"},
        {"HOLDFAST_SECRET_KEY": SECRET[:10]},
        {"HOLDFAST_STREAM_ALLOWED_ORIGINS": f"redis://me:{SECRET}@h"},
        {"HOLDFAST_SESSION_DOMAIN": f"redis://me:{SECRET}@h"},
    ],
)
def test_no_error_shows_a_secret(environ: dict[str, str]) -> None:
    assert SECRET[:10] not in refusal(environ, stream_publish_token=[SECRET, 5])


def test_an_error_keeps_no_secret_in_its_causes() -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        Settings(environ={"HOLDFAST_REDIS_URL": f"redis://:{SECRET}@h:port"}, secret_key=[5])
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__ or error.__context__


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", Settings.table(), ids=lambda variable: variable.name)
def test_every_variable_is_explained_and_its_example_works(variable: Variable) -> None:
    assert variable.meaning.endswith((".", "`."))
    assert variable.allowed
    example = variable.example
    assert example not in {"", variable.default}
    if variable.field == "secret_key":  # nobody shall run with the key of a manual
        assert refusal({variable.name: example})
        return
    environ = {
        "HOLDFAST_REDIS_URL": "redis://h",
        "HOLDFAST_SESSION_ENCRYPTION_KEY": SECRET,
        "HOLDFAST_SESSION_HTTPS_ONLY": "true",
    }
    assert Settings(environ=environ | {variable.name: example}).is_set(variable.field)


@pytest.mark.parametrize("variable", Settings.table(), ids=lambda variable: variable.name)
def test_every_default_may_be_written_out(variable: Variable) -> None:
    if variable.default not in {"none", "empty"}:
        assert Settings(environ={variable.name: variable.default}) == settings()


def test_the_table_holds_what_the_contract_names() -> None:
    assert len(TABLE) == 50
    assert TABLE["redis_url"].alias == "REDIS_URL"
    assert TABLE["stream_enabled"].alias == "REDIS_STREAM_ENABLED"
    assert {name for name, row in TABLE.items() if row.secret} == {
        "secret_key",
        "redis_url",
        "session_encryption_key",
        "stream_publish_token",
    }


def test_warnings_are_logged_once_per_process(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "holdfast"):
        for _ in range(3):
            Settings(environ={"HOLDFAST_ONLY_ONCE_EVER": "x"})
    assert caplog.text.count("HOLDFAST_ONLY_ONCE_EVER") == 1


def test_the_package_is_imported_without_reading_anything() -> None:
    python("import holdfast.settings", HOLDFAST_REDIS_TIMEOUT="soon")

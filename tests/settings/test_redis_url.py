"""What a Redis URL says, and that nothing told about one holds its password."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.settings.redis_url import SCHEMES, parse

SECRET = st.text("qxzjQXZJ0123456789/?#@:%[]", min_size=6, max_size=20)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", {"hosts": (("localhost", 6379),), "db": 0}),
        ("redis://localhost/", {"db": 0}),
        ("REDIS://localhost:1/3", {"scheme": "redis", "hosts": (("localhost", 1),), "db": 3}),
        ("redis://h?db=7", {"db": 7}),
        ("redis://h/2?db=7", {"db": 2}),
        ("redis://[::1]:6380/1", {"hosts": (("::1", 6380),), "db": 1}),
        ("redis://[fe80::1%25eth0]", {"hosts": (("fe80::1%eth0", 6379),)}),
        ("rediss://h", {"scheme": "rediss", "hosts": (("h", 6379),)}),
        ("redis://me@h", {"username": "me", "password": None}),
        ("redis://:p%40ss@h", {"username": None, "password": "p@ss"}),
        ("redis://me:a%2Fb:c@h", {"username": "me", "password": "a/b:c"}),
        ("redis://h?username=me&password=x", {"username": "me", "password": "x"}),
        ("redis://h?ssl_cert_reqs=none", {"options": {"ssl_cert_reqs": "none"}, "ignored": ()}),
        ("redis://h?socket_timeout=9&max=1", {"options": {}, "ignored": ("max", "socket_timeout")}),
        ("unix:///run/a.sock", {"socket": "/run/a.sock", "hosts": (), "db": 0}),
        ("unix://me:pw@/run/a.sock?db=2", {"socket": "/run/a.sock", "db": 2, "password": "pw"}),
        (
            "redis+sentinel://a,b:26380/mymaster/4",
            {"hosts": (("a", 26379), ("b", 26380)), "service": "mymaster", "db": 4},
        ),
        ("redis+sentinel://:pw@a/mymaster", {"service": "mymaster", "db": 0, "password": "pw"}),
        (
            "redis+cluster://a:7000,[::2]:7001",
            {"hosts": (("a", 7000), ("::2", 7001)), "db": 0},
        ),
        ("rediss+cluster://a", {"hosts": (("a", 6379),), "scheme": "rediss+cluster"}),
        ("rediss+sentinel://a/m", {"hosts": (("a", 26379),), "service": "m"}),
    ],
)
def test_a_url_is_taken_apart(url: str, expected: dict[str, Any]) -> None:
    target = parse(url)
    assert {name: getattr(target, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:6379", "must begin with one of redis://"),
        ("http://localhost", "must begin with one of redis://"),
        ("redis:/localhost", "must begin with one of redis://"),
        ("redis://", "names no host"),
        ("redis://:6379", "names no host"),
        ("redis:///0", "names no host"),
        ("redis://h:port", "port"),
        ("redis://h:0", "port"),
        ("redis://h:65536", "port"),
        ("redis://h:+6379", "port"),
        ("redis://h:６３７９", "port"),
        ("redis://h/abc", "database that is no number"),
        ("redis://h/-1", "database that is no number"),
        ("redis://h/0/1", "more in its path"),
        ("redis://h?db=x", "database that is no number"),
        ("redis://h/0#frag", "#"),
        ("redis://h /0", "space"),
        ("redis://h\x00", "control character"),
        ("redis://a,b", "several hosts"),
        ("unix://", "path of a socket"),
        ("unix://host/run/a.sock", "path of a socket"),
        ("redis+sentinel://a", "Sentinel's service"),
        ("redis+sentinel://a/", "Sentinel's service"),
        ("redis+sentinel://a/service/x", "database that is no number"),
        ("redis+sentinel://a/service/0/1", "more in its path"),
        ("redis+cluster://a/1", "only database 0"),
        ("rediss+cluster://a/1", "only database 0"),
        ("rediss+sentinel://a", "Sentinel's service"),
    ],
)
def test_a_malformed_url_is_refused_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("+", r"\+")):
        parse(url)


@given(
    scheme=st.sampled_from(SCHEMES),
    secret=SECRET,
    place=st.sampled_from(["h", "h:1x", "", "h/x", "h/a/b/c", "h:99999", "a,b"]),
)
def test_no_message_about_a_url_holds_its_password(scheme: str, secret: str, place: str) -> None:
    for login in (f":{secret}@", f"me:{secret}@", secret, f"{secret}:"):
        try:
            told = repr(parse(f"{scheme}://{login}{place}"))
        except ValueError as error:
            told = str(error)
        else:
            continue  # it was a host or a name, as far as anybody can tell
        assert secret not in told


@given(user=st.text("ab:@/é", max_size=5), password=st.text(min_size=6, max_size=30))
def test_an_encoded_password_comes_out_whole_and_is_shown_nowhere(user: str, password: str) -> None:
    target = parse(f"redis://{quote(user, safe='')}:{quote(password, safe='')}@host:1/0")
    assert target.password == password
    assert target.username == (user or None)
    assert repr(target.password) not in repr(target)
    assert target.masked.endswith(":***@host:1/0")


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("rediss://me:pw@h:1/2?client_name=x", "rediss://me:***@h:1/2"),
        ("redis://me@[::1]/2", "redis://me@[::1]:6379/2"),
        ("unix://:pw@/run/a.sock", "unix://:***@/run/a.sock"),
        ("unix:///run/a.sock?db=3", "unix:///run/a.sock?db=3"),
        ("redis+sentinel://:pw@a,b/m", "redis+sentinel://:***@a:26379,b:26379/m/0"),
        ("redis+cluster://a,b:1", "redis+cluster://a:6379,b:1"),
        ("rediss+cluster://a", "rediss+cluster://a:6379"),
    ],
)
def test_a_url_is_shown_to_people_without_its_password(url: str, masked: str) -> None:
    assert parse(url).masked == masked


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:pw@h:1/2",
        "redis://[::1]/2",
        "unix://:pw@/run/a.sock?db=3",
        "redis+sentinel://:pw@a,b/m/1",
        "redis+cluster://a,b:1",
    ],
)
def test_what_is_shown_is_a_url_again(url: str) -> None:
    assert parse(parse(url).masked).masked == parse(url).masked

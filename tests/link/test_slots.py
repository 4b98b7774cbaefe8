"""Which slot a key is in, what the key of a command is, and who has a slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from holdfast.errors import RedisUnavailable
from holdfast.link import slots
from holdfast.link.translate import Redirected, reply_error

if TYPE_CHECKING:
    from holdfast.testing import RedisServer

HERE = ("10.0.0.1", 7000)


@pytest.mark.parametrize(
    "key",
    ["run:abc:events", "{run:abc:events}:meta", "", "{}x", "{", "}{a}", "{a}{b}", "é{ü}", "{x"],
)
def test_a_slot_is_what_redis_says_it_is(cluster_node: RedisServer, key: str) -> None:
    assert slots.slot_of(key) == cluster_node.execute("CLUSTER", "KEYSLOT", key)
    assert slots.slot_of(key.encode()) == slots.slot_of(key)


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "k"), "k"),
        (("get", b"k"), b"k"),
        (("SET", "k", 1, "PX", 5), "k"),
        (("EVALSHA", "abc", 2, "a", "b", "x"), "a"),
        (("EVAL", "return 1", 0), None),
        (("XREAD", "COUNT", 5, "STREAMS", "a", "b", "0", "0"), "a"),
        (("PUBLISH", "channel", "x"), None),
        (("TIME",), None),
        (("DBSIZE",), None),
        (("HDEL", 5, "f"), "5"),
    ],
)
def test_the_key_of_a_command(command: tuple[Any, ...], key: object) -> None:
    assert slots.key_of(command) == key


def test_the_table_is_read_from_the_answer_of_a_node() -> None:
    reply = [
        [0, 99, [b"10.0.0.2", 7001, b"id", []], [b"10.0.0.9", 7009, b"replica"]],
        [100, 16382, [b"", 7002, b"id"]],
    ]
    table = slots.table(reply, HERE)
    assert table[0] == table[99] == ("10.0.0.2", 7001)
    assert table[100] == ("10.0.0.1", 7002)
    assert table[16383] is None
    assert slots.table([[0, 1, [None, 7003]]], HERE)[0] == ("10.0.0.1", 7003)
    unnamed = [b"?", 7003, b"id", [b"ip", b"10.0.0.9"]]
    assert slots.table([[0, 1, unnamed]], HERE)[0] == ("10.0.0.9", 7003)
    assert slots.table([[0, 1, [b"?", 7003, b"id", []]]], HERE)[0] == ("10.0.0.1", 7003)


@pytest.mark.parametrize("reply", [b"OK", [[1]], [[0, 99999, [b"h", 1]]], None])
def test_an_answer_that_is_none_is_told(reply: object) -> None:
    with pytest.raises(RedisUnavailable) as error:
        slots.table(reply, HERE)
    assert error.value.reason == "unsupported"


def test_each_node_gets_a_name_of_its_own() -> None:
    nodes = [("a", 1), ("b", 2), ("c", 3)]
    homes = [nodes[slot * 3 // slots.SLOTS] for slot in range(slots.SLOTS)]
    names = slots.spread("app:canary", homes, nodes)
    assert {homes[slots.slot_of(name)] for name in names} == set(nodes)
    assert len(names) == 3
    # One that has a single slot is not looked for without end.
    homes[1] = ("d", 4)
    assert 3 <= len(slots.spread("app:canary", homes, [*nodes, ("d", 4)])) <= 4


@pytest.mark.parametrize(
    ("text", "kind", "slot", "address"),
    [
        ("MOVED 3999 127.0.0.1:6381", "MOVED", 3999, ("127.0.0.1", 6381)),
        ("ASK 3999 ::1:6381", "ASK", 3999, ("::1", 6381)),
        ("ASK 3999 :6381", "ASK", 3999, None),
        ("MOVED 3999 ?:6381", "MOVED", 3999, None),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "TRYAGAIN", 0, None),
    ],
)
def test_a_redirection_is_read(
    text: str, kind: str, slot: int, address: tuple[str, int] | None
) -> None:
    told = reply_error(text)
    assert isinstance(told, Redirected)
    assert (told.kind, told.slot, told.address) == (kind, slot, address)


@pytest.mark.parametrize("text", ["MOVED", "MOVED x y", "ASK 1", "MOVED 1 host:port"])
def test_a_redirection_to_nowhere_is_an_outage(text: str) -> None:
    told = reply_error(text)
    assert isinstance(told, RedisUnavailable)
    assert not isinstance(told, Redirected)
    assert told.reason == "protocol"

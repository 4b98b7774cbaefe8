"""Whatever an agent hands out becomes JSON of a size that an event may have."""

from __future__ import annotations

import enum
import json
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from langchain_core.messages import AIMessage
from pydantic import BaseModel, Field, SecretStr

from holdfast.agents.plain import MAX_DEPTH, error_of, plain, sized


class Color(enum.Enum):
    RED = "red"


class Shade(enum.StrEnum):
    DARK = "dark"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Point:
    x: int
    label: Color = Color.RED
    missing: Any = field(init=False)


class Model(BaseModel):
    name: str = "n"
    secret: SecretStr = SecretStr("hush")
    hidden: str = Field(default="hush", exclude=True)
    any: Any = None


class Opaque:
    def __repr__(self) -> str:
        return "Opaque(password=hush)"


class BadDump:
    def model_dump(self, **_: Any) -> Any:
        raise RuntimeError("no")


class Scalar:
    """A number as libraries of arrays have them."""

    shape = ()

    def __init__(self, value: Any) -> None:
        self._value = value

    def item(self) -> Any:
        return self._value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
OPAQUE = {"not_json": "Opaque"}
CASES: dict[str, tuple[Any, Any]] = {
    "text": ("é", "é"),
    "half a surrogate pair": ("a\ud800", "a?"),
    "an enumeration of text": (Shade.DARK, "dark"),
    "an enumeration of numbers": (Level.HIGH, 3),
    "another enumeration": (Color.RED, "red"),
    "true": (True, True),
    "none": (None, None),
    "not a number": (math.nan, "nan"),
    "infinity": (-math.inf, "-inf"),
    "a number": (1.5, 1.5),
    "a tuple": ((1, (2,)), [1, [2]]),
    "a set": ({1}, [1]),
    "a moment": (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
    "a day": (date(2026, 1, 2), "2026-01-02"),
    "an id": (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "a path": (PurePosixPath("/a"), "/a"),
    "money": (Decimal("1.10"), "1.10"),
    "a number of more digits than Python writes": (10**5000, {"not_json": "int"}),
    "a number of an array": ([Scalar(1.5), Scalar(Scalar(2))], [1.5, 2]),
    "bytes": (b"\x00", {"not_json": "bytes"}),
    "a class": (Opaque, {"not_json": "type"}),
    "an object": (Opaque(), OPAQUE),
    "keys": (
        {1: "a", None: "b", Color.RED: "c", (1,): "d"},
        {"1": "a", "null": "b", "red": "c", "[1]": "d"},
    ),
    "a dataclass": (Point(1), {"x": 1, "label": "red", "missing": None}),
    "a pydantic model": (
        Model(any=Opaque()),
        {"name": "n", "secret": "**********", "any": OPAQUE},
    ),
    "bytes in a pydantic model": (
        Model(any=b"\xff"),
        {"name": "n", "secret": {"not_json": "SecretStr"}, "any": {"not_json": "bytes"}},
    ),
    "a number in a pydantic model": (
        Model(any=[Scalar(1)]),
        {"name": "n", "secret": "**********", "any": [1]},
    ),
    "a dump that fails": (BadDump(), {"not_json": "BadDump"}),
}


@pytest.mark.parametrize(("value", "expected"), CASES.values(), ids=CASES.keys())
def test_a_value_becomes_json(value: Any, expected: Any) -> None:
    found = plain(value)
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == expected
    assert type(found) in {str, int, float, bool, list, dict, type(None)}


@dataclass
class Node:
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)


def test_a_cycle_is_named_where_it_begins_again() -> None:
    assert json.dumps(plain(CYCLE)) == '[{"not_json": "list"}]'


def test_a_cycle_of_several_branches_ends_too() -> None:
    both: list[Any] = []
    both += [both, both]
    assert plain(both) == [{"not_json": "list"}] * 2
    root = Node()
    root.children += [Node(root), Node(root)]
    child = {"parent": {"not_json": "Node"}, "children": []}
    assert plain(root) == {"parent": None, "children": [child, child]}


def test_what_is_shared_is_no_cycle() -> None:
    point = Point(1)
    assert plain([point, {"again": point}]) == [plain(point), {"again": plain(point)}]


def nested(levels: int, width: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value] * width
    return value


def test_what_is_very_deep_is_named() -> None:
    assert plain(nested(MAX_DEPTH - 1, 1)) == nested(MAX_DEPTH - 1, 1)
    assert '{"not_json": "list"}' in json.dumps(plain(nested(MAX_DEPTH, 1)))


def test_shared_parts_are_not_multiplied_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.agents.plain.MAX_PARTS", 1000)
    found = json.dumps(plain(nested(12, 2)))  # thirteen lists, which would be 8191
    assert found.count("[") <= 1000
    assert '{"not_json": "list"}' in found
    assert plain(list(range(2000))) == list(range(2000))


def test_a_message_is_dumped_by_the_library() -> None:
    message = AIMessage("hello", id="m1", usage_metadata=None)
    assert plain([message]) == [message.model_dump(mode="json")]


def test_an_error_is_its_class_and_message_of_a_bounded_length() -> None:
    assert error_of(ValueError("no")) == {"type": "ValueError", "message": "no"}
    assert len(error_of(ValueError("n" * 20_000))["message"]) == 10_000


def size_of(data: Any) -> int:
    return len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())


def test_what_fits_stays() -> None:
    data = {"node": "n", "output": "x" * 100}
    assert list(sized("node_output", data, size_of(data))) == [("node_output", data)]


def test_what_is_too_large_is_told_by_its_size() -> None:
    data = {"node": "n", "output": "x" * 100, "id": "1"}
    ((kind, found),) = sized("node_output", data, size_of(data) - 1)
    assert (kind, found) == ("node_output", {"node": "n", "output": {"too_large": 102}, "id": "1"})


@pytest.mark.parametrize("kind", ["token", "thinking", "tool_call_delta"])
def test_long_text_comes_in_several_events(kind: str) -> None:
    text = "kelp é \n" * 1000
    found = list(sized(kind, {"text": text, "message": "m"}, 500))
    assert "".join(data["text"] for _, data in found) == text
    assert {(each, data["message"]) for each, data in found} == {(kind, "m")}
    assert all(size_of(data) <= 500 for _, data in found)


def test_text_beside_something_too_large_is_not_cut_for_ever() -> None:
    ((_, found),) = sized("token", {"text": "", "message": "m" * 100}, 60)
    assert found == {"text": "", "message": {"too_large": 102}}

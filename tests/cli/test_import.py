"""`holdfast runs import`: whole runs of another system, with their times, once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.test_runs import Shell
from tests.streams.asgi import Call
from tests.streams.redis_stores import opened, ttls

from holdfast import EventStreamApp, Settings
from holdfast.cli.imports import BadLine, Columns, csv_lines, foreign_runs, json_lines
from holdfast.streams.select import close_hubs
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.testing import RedisServer

EVENTS: list[dict[str, Any]] = [
    {"run_id": "a", "type": "token", "data": {"t": "é"}, "created_at": "2024-02-29 12:00:00.250"},
    {"run_id": "a", "type": "token", "data": None, "created_at": "2024-02-29T12:00:00.250+00:00"},
    {"run_id": "a", "type": "workflow_complete", "created_at": 1709208001},
    {"run_id": "7", "type": "token", "data": [1], "created_at": 1709208001500, "owner": "user:ada"},
]


def lines_of(*events: dict[str, Any]) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


@pytest.fixture
def shell(tmp_path: Path, redis: RedisServer, key_prefix: str) -> Shell:
    return Shell(tmp_path, HOLDFAST_REDIS_URL=redis.url, HOLDFAST_KEY_PREFIX=key_prefix)


@pytest.mark.anyio
async def test_imported_runs_are_read_as_if_they_had_always_been_here(
    shell: Shell, redis: RedisServer, key_prefix: str
) -> None:
    done = shell("import", given=lines_of(*EVENTS))
    assert (done.returncode, done.stdout) == (0, "2 runs with 4 events imported\n"), done.stderr
    again = shell("import", given=lines_of(*EVENTS))
    assert again.stdout == "0 runs with 0 events imported; 2 were there already\n"
    async with opened(redis.url, key_prefix) as store:
        events = await store.get_events("a")
        assert [event.id for event in events] == [
            "1709208000250-0",
            "1709208000250-1",
            "1709208001000-0",
        ]
        assert [event.data for event in events] == [{"t": "é"}, None, None]
        assert await store.status("a") == "ended"
        info = await store.describe("7")
        assert (info.status, info.owner, info.n) == ("open", "user:ada", 1)
        for run in ("a", "7"):
            assert all(0 < left <= 2 * 86_400_000 for left in ttls(redis, store, run))
        app = EventStreamApp(
            settings=Settings(stream_access="open", secret_key="k" * 32), store=store
        )
        async with Call(app, "/runs/a/events/stream") as call:
            await call.ended()
        await close_hubs(store)
    assert [name for name, _ in call.events] == ["token", "token", "workflow_complete"]


@pytest.mark.anyio
async def test_an_import_goes_on_after_its_error_and_touches_no_run_that_is_there(
    shell: Shell, redis: RedisServer, key_prefix: str
) -> None:
    async with opened(redis.url, key_prefix) as store:
        await store.add("7", "t", "mine")
        text = lines_of(*EVENTS[:3]) + "{no json\n" + lines_of(EVENTS[3])
        broken = shell("import", given=text)
        assert broken.returncode == 2
        assert "line 4: no JSON" in broken.stderr
        assert broken.stdout == "0 runs with 0 events imported\n"
        assert await store.status("a") == "absent"
        done = shell("import", given=lines_of(*EVENTS))
        assert done.stdout == "1 run with 3 events imported; 1 were there already\n"
        assert [event.data for event in await store.get_events("7")] == ["mine"]


def test_a_dry_run_writes_nothing(shell: Shell, redis: RedisServer, key_prefix: str) -> None:
    done = shell("import", "--dry-run", given=lines_of(*EVENTS))
    assert done.stdout == "2 runs with 4 events would be imported\n"
    assert redis.execute("EXISTS", f"{key_prefix}run:a:events") == 0


def test_csv_has_columns_of_any_name(shell: Shell, redis: RedisServer, key_prefix: str) -> None:
    table = 'job,kind,payload,at\nj,t,"{""a"": 1}",2024-01-01\nj,t,plain text,2024-01-02\n'
    names = ("--run", "job", "--type", "kind", "--data", "payload", "--time", "at")
    done = shell("import", "--csv", "--complete", *names, given=table)
    assert done.stdout == "1 run with 3 events imported\n", done.stderr
    entries: Any = redis.execute("XRANGE", f"{key_prefix}run:j:events", "-", "+")
    assert [fields[3] for _, fields in entries] == [b'{"a":1}', b'"plain text"', b'{"output":null}']
    assert entries[0][0] == b"1704067200000-0"


WRONG: list[tuple[list[dict[str, Any]], str]] = [
    ([{"type": "t"}], "line 1: 'run_id' is missing"),
    ([{"run_id": "a"}], "line 1: 'type' is missing"),
    ([{"run_id": "a{", "type": "t"}], "line 1: a run id"),
    ([{"run_id": "a", "type": "holdfast.x"}], "line 1"),
    ([{"run_id": "a", "type": "t", "created_at": "soon"}], "'soon' is no time"),
    ([{"run_id": "a", "type": "t", "created_at": True}], "True is no time"),
    ([{"run_id": "a", "type": "t", "created_at": "9999-01-01"}], "of the future"),
    ([{"run_id": "a", "type": "t", "owner": "ada"}], "line 1: an owner"),
    ([EVENTS[2], EVENTS[1]], "line 2: an event follows the end"),
    ([EVENTS[0], EVENTS[3], EVENTS[1]], "line 3: the run 'a' is taken up again"),
]


@pytest.mark.parametrize(("events", "told"), WRONG)
def test_what_is_wrong_is_told_with_its_line(events: list[dict[str, Any]], told: str) -> None:
    lines = json_lines(lines_of(*events).splitlines())
    store = MemoryEventStore()
    with pytest.raises(BadLine, match=told):
        list(foreign_runs(lines, Columns(), store, complete=False))


def test_lines_that_are_no_objects_are_refused_and_empty_ones_passed_over() -> None:
    with pytest.raises(BadLine, match="line 2: no JSON object"):
        list(json_lines(["\n", "[1]"]))


def test_an_event_that_is_too_large_is_told_with_its_line() -> None:
    store = MemoryEventStore(max_event_bytes=10)
    line = {"run_id": "a", "type": "t", "data": "x" * 20}
    with pytest.raises(BadLine, match=r"line 1: .*HOLDFAST_STREAM_MAX_EVENT_BYTES"):
        list(foreign_runs([(1, line)], Columns(), store, complete=False))


def test_a_row_is_numbered_by_its_line_in_the_file() -> None:
    rows = list(csv_lines(["run_id,data\n", 'a,"x\n', 'y"\n', "b,1\n"], "data"))
    assert rows == [(3, {"run_id": "a", "data": "x\ny"}), (4, {"run_id": "b", "data": 1})]

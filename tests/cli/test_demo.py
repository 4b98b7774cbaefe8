"""`holdfast demo` as a person starts it: an address that answers, a key nobody had to make."""

from __future__ import annotations

import re
import urllib.request
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Serve

    from holdfast.testing.redis_process import RedisServer

DEMO = ["-m", "holdfast", "demo"]
KEY = "correct-horse-battery-staple"


def status_of(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as response:
        return int(response.status)


def test_the_demo_answers_at_the_address_it_prints(serve: Serve) -> None:
    server = serve(DEMO)
    address = re.search(r"^The demo is at (\S+)$", server.log(), re.MULTILINE)
    assert address is not None
    assert address[1] == server.url, "PORT is honoured"
    assert status_of(address[1]) == 200
    assert "kept in the memory of this process" in server.log()
    assert "HOLDFAST_SECRET_KEY" not in server.log(), "the key it made is no cause for a warning"
    server.stop()


@pytest.mark.parametrize("own_key", [None, KEY], ids=["made", "given"])
def test_with_redis_the_line_for_a_second_server_is_printed(
    own_key: str | None, serve: Serve, redis: RedisServer, key_prefix: str
) -> None:
    env = {"REDIS_URL": redis.url, "HOLDFAST_KEY_PREFIX": key_prefix}
    server = serve(DEMO, env=env | ({"HOLDFAST_SECRET_KEY": own_key} if own_key else {}))
    log = server.log()
    assert "Sessions and streams are kept at redis" in log
    line = re.search(
        r"^  HOLDFAST_SECRET_KEY=([\w-]{32,}) holdfast demo --port (\d+)$", log, re.MULTILINE
    )
    if own_key:
        assert line is None
        assert own_key not in log
    else:
        assert line is not None
        assert int(line[2]) == server.port + 1
    assert status_of(server.url) == 200
    server.stop()


def test_a_port_that_is_none_is_a_usage_error(serve: Serve) -> None:
    server = serve(DEMO, env={"PORT": "eighty"}, wait=False)
    assert server.wait() == 2
    assert "'eighty' is not a valid integer" in server.log()


def test_a_port_in_use_is_told(serve: Serve) -> None:
    first = serve(DEMO)
    second = serve([*DEMO, "--port", str(first.port)], wait=False)
    assert second.wait() != 0
    assert "address already in use" in second.log()

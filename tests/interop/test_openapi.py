"""The OpenAPI document against a live server: whatever is sent, the answer is documented."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks as common
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from holdfast import Settings, stream_token
from holdfast.errors import InvalidEvent
from holdfast.streams.event import check_run_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Serve

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.slow
# Not mounted: a route of Starlette finds no address with a line break in it.
APP = "tests.streams.served:alone"
KEY = "a-key-of-sixteen-characters-or-more"
EXAMPLES = 25
CHECKS: list[Any] = [
    common.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
READ = ["ended", "absent"]


@pytest.fixture(params=["memory", "redis"])
def url(
    request: pytest.FixtureRequest, serve: Serve, redis: RedisServer, key_prefix: str
) -> Iterator[str]:
    """The app's address; of what may be read one run has ended, and the other never begins."""
    env = {
        "HOLDFAST_STREAM_ACCESS": "open",
        "HOLDFAST_SECRET_KEY": KEY,
        "HOLDFAST_STREAM_WAIT": "0",
    }
    if request.param == "redis":
        env |= {"HOLDFAST_REDIS_URL": redis.url, "HOLDFAST_KEY_PREFIX": key_prefix}
    server = serve(APP, env=env)
    events = [{"type": "t", "data": 1}, {"type": "workflow_complete"}]
    headers = bearer("ended")
    httpx.post(f"{server.url}/runs/ended/events", json=events, headers=headers).raise_for_status()
    yield server.url
    assert "Traceback" not in server.log(), server.log()


def kept_short(case: Any) -> Any:
    """Let nothing wait, and read runs that have ended: an open one is served for ever."""
    query, path = case.query, case.path_parameters
    if case.operation.method == "get":
        if isinstance(query, dict):
            query["wait"] = "0"
        if "run_id" in (path or {}) and possible(path["run_id"]):
            path["run_id"] = READ[len(path["run_id"]) % 2]
        if case.operation.path == "/events/stream" and isinstance(query, dict):
            runs = query.get("run")
            if isinstance(runs, list) and runs and all(map(possible, runs)):
                query["run"] = READ[: len(runs)]
    return case


def possible(run_id: Any) -> bool:
    try:
        check_run_id(run_id)
    except InvalidEvent:
        return False
    return True


def token_for(case: Any) -> dict[str, str]:
    """What opens the run of *case* for every second one of them."""
    run_id = (case.path_parameters or {}).get("run_id", "ended")
    if not possible(run_id) or len(run_id) % 4 == 3:
        return {}
    return bearer(run_id)


def bearer(run_id: str) -> dict[str, str]:
    actions = ["read", "stop", "publish"]
    token = stream_token(run_id, actions=actions, settings=Settings(secret_key=KEY))
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_whatever_is_sent_the_answer_is_a_documented_one(url: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    seen: Counter[int] = Counter()
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if not can_be_wrong(operation, mode):
            continue

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            kept_short(case)
            answer = case.call(base_url=url, headers=token_for(case), timeout=10)
            case.validate_response(answer, checks=CHECKS)
            seen[answer.status_code] += 1

        send()
    assert {200, 201, 202} <= seen.keys() if mode is GenerationMode.POSITIVE else seen[400], seen
    assert not [status for status in seen if status >= 500]


def can_be_wrong(operation: Any, mode: GenerationMode) -> bool:
    """Of an address without parameters nothing can be sent that it does not take."""
    return mode is GenerationMode.POSITIVE or operation.path.startswith(("/runs", "/events"))

"""Publish a run over HTTP, so that each event is written once whatever happens to the answers.

    HOLDFAST_STREAM_PUBLISH_TOKEN=… \
        python examples/publish_over_http.py http://127.0.0.1:8000/streams r1

A request that got no answer, or one that says "later", is sent again with the same key: what was
written is answered, not written twice.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any
from urllib.parse import quote

import httpx

PATIENCE = 60.0


def publish(http: httpx.Client, run_id: str, key: str, events: list[dict[str, Any]]) -> list[str]:
    """Write *events* and return their ids; *key* is unique to them within the run."""
    last, wait = time.monotonic() + PATIENCE, 0.1
    while True:
        try:
            answer = http.post(
                f"runs/{quote(run_id, safe='')}/events",
                json=events,
                headers={"Idempotency-Key": key},
            )
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code not in {429, 503}:
            answer.raise_for_status()
            return [event["id"] for event in answer.json()["events"]]
        if time.monotonic() > last:
            raise SystemExit(f"the server took nothing for {PATIENCE:.0f} s")
        time.sleep(wait)
        wait = min(2 * wait, 2.0)


def main(url: str, run_id: str) -> None:
    token = os.environ["HOLDFAST_STREAM_PUBLISH_TOKEN"]
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=5) as http:
        for row in range(0, 100, 10):
            events = [{"type": "row", "data": {"n": row + n}} for n in range(10)]
            publish(http, run_id, f"rows-{row}", events)
        publish(http, run_id, "end", [{"type": "workflow_complete"}])
    print(f"published {run_id}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or "HOLDFAST_STREAM_PUBLISH_TOKEN" not in os.environ:
        raise SystemExit("set HOLDFAST_STREAM_PUBLISH_TOKEN, and name the streams and a run")
    main(sys.argv[1], sys.argv[2])

"""A run as the AI SDK's UI message stream: each chunk follows what it needs before it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from tests.agents.stories import STORIES

from holdfast.agents.ai_sdk import UIMessageEncoder

START = {"type": "start", "messageId": "r"}
COMPLETE = ("workflow_complete", {"output": None})
END = [{"type": "finish"}, "[DONE]"]


def spelled(*events: tuple[str, Any]) -> list[Any]:
    encoder = UIMessageEncoder("r")
    chunks = [chunk for kind, data in events for chunk in encoder.encode(kind, data)]
    check(chunks)
    assert encoder.done == (chunks[-1] == "[DONE]")
    return chunks


def check(chunks: list[Any]) -> None:
    """Hold a stream to what the SDK throws at: parts and calls that it has not heard of."""
    parts: set[tuple[str, str]] = set()
    calls: dict[str, str] = {}
    for chunk in chunks:
        if chunk == "[DONE]":
            continue
        kind, _, step = chunk["type"].rpartition("-")
        # Clients before version 7 have forgotten after a step what was open in it.
        assert not parts or chunk["type"] != "finish-step"
        if kind in {"text", "reasoning"}:
            assert ((kind, chunk["id"]) in parts) == (step != "start"), chunk
            assert step != "delta" or isinstance(chunk["delta"], str)
            if step != "delta":
                (parts.add if step == "start" else parts.discard)((kind, chunk["id"]))
        elif kind.startswith("tool-"):
            call = chunk["toolCallId"]
            assert isinstance(call, str)
            if kind == "tool-output":
                assert calls[call] == "available", chunk
            else:
                assert calls.get(call) in {"delta": {"streaming"}}.get(step, {None, "streaming"})
                calls[call] = "available" if step == "available" else "streaming"
                assert step == "delta" or isinstance(chunk["toolName"], str)
    if chunks[-1] == "[DONE]":
        assert not parts


@settings(max_examples=60)
@given(STORIES)
def test_whatever_an_agent_says_is_a_stream_of_the_format(story: Any) -> None:
    chunks = spelled(*story)
    assert chunks[0] == START
    assert chunks[-1] == "[DONE]"
    assert chunks[-2]["type"] in {"finish", "error", "abort"}
    assert [chunk for chunk in chunks[:-1] if chunk["type"] == "start"] == [START]


def test_text_reasoning_and_a_call_are_parts_of_one_message() -> None:
    call = {"call": "c", "tool": "t", "message": "m"}
    chunks = spelled(
        ("thinking", {"text": "hm", "message": "m"}),
        ("token", {"text": "It ", "message": "m"}),
        ("tool_call_delta", {**call, "text": "{}"}),
        ("tool_call", {**call, "arguments": {}}),
        ("tool_call", {**call, "arguments": {}}),
        ("tool_result", {**call, "output": {"b": 2}}),
        ("token", {"text": "holds.", "message": "m2"}),
        ("model_finished", {"message": "m2"}),
        COMPLETE,
    )
    assert chunks == [
        START,
        {"type": "start-step"},
        {"type": "reasoning-start", "id": "reasoning-1"},
        {"type": "reasoning-delta", "id": "reasoning-1", "delta": "hm"},
        {"type": "reasoning-end", "id": "reasoning-1"},
        {"type": "text-start", "id": "text-2"},
        {"type": "text-delta", "id": "text-2", "delta": "It "},
        {"type": "text-end", "id": "text-2"},
        {"type": "tool-input-start", "toolCallId": "c", "toolName": "t"},
        {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": "{}"},
        {"type": "tool-input-available", "toolCallId": "c", "toolName": "t", "input": {}},
        {"type": "tool-output-available", "toolCallId": "c", "output": {"b": 2}},
        {"type": "finish-step"},
        {"type": "start-step"},
        {"type": "text-start", "id": "text-3"},
        {"type": "text-delta", "id": "text-3", "delta": "holds."},
        {"type": "text-end", "id": "text-3"},
        {"type": "finish-step"},
        *END,
    ]


def test_a_step_is_what_one_answer_of_a_model_asks_for() -> None:
    def steps(*messages: str | None) -> list[str]:
        one, two, three = ({"message": message} if message else {} for message in messages)
        chunks = spelled(
            ("tool_call", {"call": "a", "tool": "t", "arguments": {}, **one}),
            ("tool_result", {"call": "a", "tool": "t", "output": 1}),
            ("tool_call", {"call": "b", "tool": "t", "arguments": {}, **two}),
            ("tool_result", {"call": "b", "tool": "t", "output": 1}),
            ("token", {"text": "kelp", **three}),
            COMPLETE,
        )
        return [chunk.get("toolCallId") or chunk["type"][:10] for chunk in chunks[1:-2]]

    text = ["text-start", "text-delta", "text-end"]
    step = ["finish-ste", "start-step"]
    assert steps("m", "m", "m2") == [*step[1:], *"aabb", *step, *text, step[0]]
    assert steps("m", "m2", "m2") == [*step[1:], *"aa", *step, *"bb", *text, step[0]]
    assert steps(None, None, None) == [*step[1:], *"aa", *step, *"bb", *step, *text, step[0]]


def test_what_one_answer_says_goes_on_beside_the_steps_of_another() -> None:
    chunks = spelled(
        ("token", {"text": "kelp", "message": "m"}),
        ("tool_call", {"call": "a", "tool": "t", "arguments": {}, "message": "n"}),
        ("tool_result", {"call": "a", "tool": "t", "output": 1}),
        ("token", {"text": "sea", "message": "n2"}),
        ("token", {"text": " holds", "message": "m"}),
        COMPLETE,
    )
    said = [(chunk["id"], chunk["delta"]) for chunk in chunks[:-1] if "delta" in chunk]
    assert said == [("text-1", "kelp"), ("text-2", "sea"), ("text-3", " holds")]


def test_a_result_that_no_model_asked_for_is_announced() -> None:
    error = {"type": "KeyError", "message": "b"}
    chunks = spelled(
        ("tool_started", {"tool": "t", "arguments": {"a": 1}, "id": "i"}),
        ("tool_error", {"call": "c", "id": "i", "error": error}),
        COMPLETE,
    )
    assert chunks[2:-3] == [
        {"type": "tool-input-available", "toolCallId": "c", "toolName": "t", "input": {"a": 1}},
        {"type": "tool-output-error", "toolCallId": "c", "errorText": "KeyError: b"},
    ]


def test_a_node_is_one_part_that_changes() -> None:
    chunks = spelled(
        ("node_started", {"node": "n", "id": "1"}),
        ("node_output", {"node": "n", "id": "1", "output": 7}),
        ("node_error", {"node": "o", "error": {}}),
        ("mine", [1]),
        COMPLETE,
    )
    assert [(chunk["type"], chunk.get("id")) for chunk in chunks[1:-2]] == [
        *[("data-node", "1"), ("data-node", "1"), ("data-node", "o"), ("data-mine", None)]
    ]
    statuses = [chunk["data"]["status"] for chunk in chunks[1:4]]
    assert statuses == ["running", "done", "failed"]
    assert chunks[2]["data"]["output"] == 7


ENDINGS = {
    "complete": (
        *("workflow_complete", {"output": 7}),
        [{"type": "data-output", "data": 7}, {"type": "finish"}],
    ),
    "an error": (
        "workflow_error",
        {"error": {"type": "ValueError", "message": "no"}},
        [{"type": "error", "errorText": "no"}],
    ),
    "stopped": ("run_stopped", {}, [{"type": "abort", "reason": "stopped"}]),
    "lost": ("run_lost", {}, [{"type": "error", "errorText": "the process that ran it is gone"}]),
}


@pytest.mark.parametrize(("kind", "data", "last"), ENDINGS.values(), ids=ENDINGS.keys())
def test_the_end_of_a_run_is_the_end_of_the_stream(kind: str, data: Any, last: Any) -> None:
    assert spelled((kind, data)) == [START, *last, "[DONE]"]


def test_an_agent_that_speaks_the_format_is_passed_on() -> None:
    own = [{"type": "start"}, {"type": "data-x", "data": 1}, {"type": "finish"}]
    chunks = spelled(*[("message", chunk) for chunk in own], COMPLETE)
    assert chunks == [START, *own[1:], "[DONE]"]
    assert spelled(("message", own[1]), COMPLETE) == [START, own[1], *END]


@pytest.mark.parametrize("kind", ["error", "file", "data-mine", "text-delta"])
def test_what_is_only_named_like_a_chunk_is_the_agents_own(kind: str) -> None:
    own = {"type": kind, "message": "no"}
    assert spelled(("message", own), COMPLETE) == [
        *(START, {"type": "data-message", "data": own}, *END)
    ]


def test_the_encoded_stream_of_an_agent_ends_once() -> None:
    said: list[Any] = [("message", {"type": "start"}), ("message", "[DONE]"), COMPLETE]
    assert spelled(*said) == [START, *END]


def test_a_message_keeps_the_name_that_it_began_with() -> None:
    said: Any = {"type": "start", "messageId": "other", "messageMetadata": {"a": 1}}
    chunks = spelled(("mine", 1), ("message", said), COMPLETE)
    assert chunks[0] == START
    assert chunks[2] == {"type": "start", "messageMetadata": {"a": 1}}


def test_a_gap_is_told() -> None:
    encoder = UIMessageEncoder("r")
    gone = {"requested": "0", "earliest": "1-1"}
    assert [*encoder.notice("holdfast.gap", gone)] == [
        START,
        {"type": "data-holdfast.gap", "data": gone, "transient": True},
    ]
    assert len([*encoder.notice("holdfast.reset", {})]) == 1


def test_after_a_gap_a_passed_agent_goes_on_with_nothing_that_was_not_told() -> None:
    encoder = UIMessageEncoder("r")
    gone: list[Any] = [
        {"type": "text-delta", "id": "1", "delta": "kelp"},
        {"type": "text-end", "id": "1"},
        {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": "{}"},
        {"type": "tool-output-available", "toolCallId": "c", "output": 1},
        {"type": "tool-approval-request", "approvalId": "a", "toolCallId": "c"},
        {"type": "tool-approval-response", "approvalId": "a", "approved": True},
    ]
    new: list[Any] = [
        {"type": "text-start", "id": "2"},
        {"type": "text-delta", "id": "2", "delta": "holds"},
        {"type": "tool-input-available", "toolCallId": "d", "toolName": "t", "input": {}},
        {"type": "tool-approval-request", "approvalId": "b", "toolCallId": "d"},
        {"type": "tool-approval-response", "approvalId": "b", "approved": True},
        {"type": "tool-output-available", "toolCallId": "d", "output": 1},
    ]
    frames: list[Any] = [*encoder.notice("holdfast.gap", {})]
    frames += [found for frame in [*gone, *new] for found in encoder.encode("message", frame)]
    assert frames[2:] == new


def test_after_a_gap_a_part_that_had_ended_is_not_gone_on_with() -> None:
    encoder = UIMessageEncoder("r")
    told: list[Any] = [{"type": "text-start", "id": "0"}, {"type": "text-end", "id": "0"}]
    frames = [found for frame in told for found in encoder.encode("message", frame)]
    frames += encoder.notice("holdfast.gap", {})
    # The next step names its parts alike, and its first chunk is gone.
    frames += encoder.encode("message", {"type": "text-delta", "id": "0", "delta": "kelp"})
    frames += encoder.encode("message", told[1])
    assert frames[1:3] == told
    assert len(frames) == 4

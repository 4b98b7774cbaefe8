"""A run as AG-UI 1.0: every frame is one of the protocol's, and what is opened is closed."""

from __future__ import annotations

from typing import Any

import ag_ui.core
import pytest
from ag_ui.core import Event
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from tests.agents.stories import STORIES

from holdfast.agents.ag_ui import PROTOCOL_VERSION, AGUIEncoder

EVENT: TypeAdapter[Any] = TypeAdapter(Event)
NAMES = {"threadId": "t", "runId": "r"}
STARTED = {"type": "RUN_STARTED", **NAMES, "protocolVersion": "1.0"}
FINISHED = {"type": "RUN_FINISHED", **NAMES}
COMPLETE = ("workflow_complete", {"output": None})


def spelled(*events: tuple[str, Any]) -> list[Any]:
    encoder = AGUIEncoder("r", "t")
    frames: list[Any] = [frame for kind, data in events for frame in encoder.encode(kind, data)]
    check(frames)
    assert encoder.done == (frames[-1]["type"] in {"RUN_FINISHED", "RUN_ERROR"})
    return frames


def types(frames: list[Any]) -> list[str]:
    return [frame["type"] for frame in frames]


OPENS = {
    "TEXT_MESSAGE_START": ("text", "messageId"),
    "REASONING_START": ("span", "messageId"),
    "REASONING_MESSAGE_START": ("reasoning", "messageId"),
    "TOOL_CALL_START": ("call", "toolCallId"),
    "STEP_STARTED": ("step", "stepName"),
}
CLOSES = {
    "TEXT_MESSAGE_END": ("text", "messageId"),
    "REASONING_END": ("span", "messageId"),
    "REASONING_MESSAGE_END": ("reasoning", "messageId"),
    "TOOL_CALL_END": ("call", "toolCallId"),
    "STEP_FINISHED": ("step", "stepName"),
}
GOES_ON = {
    "TEXT_MESSAGE_CONTENT": ("text", "messageId"),
    "REASONING_MESSAGE_CONTENT": ("reasoning", "messageId"),
    "TOOL_CALL_ARGS": ("call", "toolCallId"),
}


def check(frames: list[Any]) -> None:
    """Hold a stream to the rules that the protocol's own client checks."""
    opened: set[tuple[str, str]] = set()
    called: set[str] = set()
    for frame in frames:
        parsed = EVENT.validate_python(frame)
        assert parsed.model_dump(mode="json", by_alias=True) == frame, "an unknown or missing field"
        kind = frame["type"]
        for table in (OPENS, CLOSES, GOES_ON):
            if kind in table:
                what, name = table[kind]
                assert ((what, frame[name]) in opened) == (table is not OPENS), frame
        if kind in OPENS:
            what, name = OPENS[kind]
            opened.add((what, frame[name]))
            called |= {frame[name]} if what == "call" else set()
        elif kind in CLOSES:
            what, name = CLOSES[kind]
            opened.discard((what, frame[name]))
        elif kind == "TOOL_CALL_RESULT":
            assert frame["toolCallId"] in called
    if frames[-1]["type"] == "RUN_FINISHED":
        assert not opened


def test_the_version_is_the_one_that_the_models_are_of() -> None:
    assert ag_ui.core.PROTOCOL_VERSION == PROTOCOL_VERSION


def test_each_event_of_the_protocol_is_known() -> None:
    for kind in ag_ui.core.EventType:
        told: list[Any] = [*AGUIEncoder("r", "t").encode("message", {"type": kind.value})]
        assert "message" not in {frame.get("name") for frame in told}, kind


@settings(max_examples=60)
@given(STORIES)
def test_whatever_an_agent_says_is_a_stream_of_the_protocol(story: Any) -> None:
    frames = spelled(*story)
    assert frames[0] == STARTED
    assert types(frames).count("RUN_STARTED") == 1
    assert types(frames)[-1] in {"RUN_FINISHED", "RUN_ERROR"}
    assert spelled(*[("message", frame) for frame in frames]) == frames


def test_reasoning_ends_where_text_begins() -> None:
    frames = spelled(
        ("thinking", {"text": "hm", "message": "m"}),
        ("token", {"text": "It ", "message": "m"}),
        ("token", {"text": "holds.", "message": "m"}),
        ("model_finished", {"message": "m"}),
        COMPLETE,
    )
    span = {"messageId": "m:reasoning:1"}
    assert frames == [
        STARTED,
        {"type": "REASONING_START", **span},
        {"type": "REASONING_MESSAGE_START", **span, "role": "reasoning"},
        {"type": "REASONING_MESSAGE_CONTENT", **span, "delta": "hm"},
        {"type": "REASONING_MESSAGE_END", **span},
        {"type": "REASONING_END", **span},
        {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "It "},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "holds."},
        {"type": "TEXT_MESSAGE_END", "messageId": "m"},
        FINISHED,
    ]


def test_a_call_whose_arguments_came_in_pieces_is_told_once() -> None:
    call = {"call": "c", "tool": "t", "message": "m"}
    frames = spelled(
        ("tool_call_delta", {**call, "text": '{"a":'}),
        ("tool_call_delta", {**call, "text": "1}"}),
        ("tool_call", {**call, "arguments": {"a": 1}}),
        ("tool_started", {**call, "arguments": {"a": 1}, "id": "i"}),
        ("tool_result", {**call, "output": {"b": 2}, "id": "i"}),
        COMPLETE,
    )
    one = {"toolCallId": "c"}
    assert frames[1:-1] == [
        {"type": "TOOL_CALL_START", **one, "toolCallName": "t", "parentMessageId": "m"},
        {"type": "TOOL_CALL_ARGS", **one, "delta": '{"a":'},
        {"type": "TOOL_CALL_ARGS", **one, "delta": "1}"},
        {"type": "TOOL_CALL_END", **one},
        {
            "type": "TOOL_CALL_RESULT",
            **one,
            "messageId": "c:result",
            "content": '{"b":2}',
            "role": "tool",
        },
    ]


def test_a_result_that_no_model_asked_for_is_announced() -> None:
    frames = spelled(
        ("tool_started", {"tool": "t", "arguments": {"a": 1}, "id": "i"}),
        ("tool_error", {"call": "c", "id": "i", "error": {"type": "KeyError", "message": "b"}}),
        COMPLETE,
    )
    assert types(frames)[1:-1] == [
        *("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT")
    ]
    assert (frames[1]["toolCallName"], frames[2]["delta"]) == ("t", '{"a":1}')
    assert frames[4]["content"] == "KeyError: b"


def test_a_node_beside_itself_has_a_name_of_its_own() -> None:
    frames = spelled(
        ("node_started", {"node": "n", "id": "1"}),
        ("node_started", {"node": "n", "id": "2"}),
        ("node_output", {"node": "n", "id": "1", "output": 1}),
        ("node_error", {"node": "n", "id": "2", "error": {}}),
        COMPLETE,
    )
    assert [frame.get("stepName") or frame.get("name") for frame in frames[1:-1]] == [
        *("n", "n (2)", "node_output", "n", "node_error", "n (2)")
    ]


ENDINGS = {
    "complete": ("workflow_complete", {"output": 7}, {**FINISHED, "result": 7}),
    "an error": (
        "workflow_error",
        {"error": {"type": "ValueError", "message": "no"}},
        {"type": "RUN_ERROR", "message": "no", "code": "ValueError"},
    ),
    "an error of another shape": (
        "workflow_error",
        {"error": "no"},
        {"type": "RUN_ERROR", "message": "no", "code": "Error"},
    ),
    "an error that says nothing": (
        *("workflow_error", None),
        {"type": "RUN_ERROR", "message": "it failed", "code": "Error"},
    ),
    "stopped": ("run_stopped", {}, {**FINISHED, "outcome": {"type": "cancelled"}}),
    "lost": (
        "run_lost",
        {},
        {"type": "RUN_ERROR", "message": "the process that ran it is gone", "code": "run_lost"},
    ),
}


@pytest.mark.parametrize(("kind", "data", "frame"), ENDINGS.values(), ids=ENDINGS.keys())
def test_the_end_of_a_run_is_the_end_of_the_protocol(kind: str, data: Any, frame: Any) -> None:
    assert spelled((kind, data)) == [STARTED, frame]


def test_a_graph_that_waits_finishes_with_its_interrupts() -> None:
    asked = {"interrupts": [{"id": "q", "value": {"question": "Go on?"}}]}
    frames = spelled(("interrupt", asked), COMPLETE)
    told = {"id": "q", "reason": "interrupt", "metadata": {"value": {"question": "Go on?"}}}
    assert frames[-1]["outcome"] == {"type": "interrupt", "interrupts": [told]}


def test_what_the_models_used_is_told_at_the_end_by_model() -> None:
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    frames = spelled(
        ("model_started", {"message": "m", "model": "large"}),
        ("model_finished", {"message": "m", "usage": usage}),
        ("model_started", {"message": "n", "model": "large"}),
        ("model_finished", {"message": "n", "usage": {**usage, "total_tokens": None}}),
        ("model_finished", {"message": "o", "usage": {"input_tokens": 1}}),
        COMPLETE,
    )
    assert frames[1]["usage"] == [
        {"model": "large", "inputTokens": 6, "outputTokens": 8, "totalTokens": 7},
        {"inputTokens": 1},
    ]


def test_what_has_no_event_is_custom_and_a_state_is_a_snapshot() -> None:
    within = {"state": {"b": 1}, "node": "inner"}
    frames = spelled(("mine", [1]), ("state", {"state": {"a": 1}}), ("state", within), COMPLETE)
    assert frames[1:-1] == [
        {"type": "CUSTOM", "name": "mine", "value": [1]},
        {"type": "STATE_SNAPSHOT", "snapshot": {"a": 1}},
        {"type": "CUSTOM", "name": "state", "value": within},
    ]


def test_an_agent_that_speaks_the_protocol_is_passed_on() -> None:
    own = [
        {"type": "RUN_STARTED", "threadId": "x", "runId": "y"},
        {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
        {"type": "TEXT_MESSAGE_END", "messageId": "m"},
        {"type": "RUN_FINISHED", "threadId": "x", "runId": "y"},
    ]
    assert spelled(*[("message", frame) for frame in own]) == own
    assert spelled(*[("message", frame) for frame in own[1:]])[0] == STARTED


@pytest.mark.parametrize("end", ["run_stopped", "workflow_complete", "RUN_FINISHED"])
def test_what_a_passed_agent_left_open_is_closed_before_the_end(end: str) -> None:
    span, within = {"messageId": "s"}, {"subagentRunId": "b"}
    own: list[Any] = [
        {"type": "RUN_STARTED", "threadId": "x", "runId": "y"},
        {"type": "TEXT_MESSAGE_START", "messageId": "done", "role": "assistant"},
        {"type": "TEXT_MESSAGE_END", "messageId": "done"},
        {"type": "SUBAGENT_STARTED", "subagentRunId": "a", "name": "ready"},
        {"type": "SUBAGENT_FINISHED", "subagentRunId": "a"},
        {"type": "STEP_STARTED", "stepName": "plan"},
        {"type": "SUBAGENT_STARTED", **within, "name": "writer"},
        {"type": "STEP_STARTED", "stepName": "plan", **within},
        {"type": "STEP_STARTED", "stepName": "read", **within},
        {"type": "STEP_FINISHED", "stepName": "read", **within},
        {"type": "REASONING_START", **span},
        {"type": "REASONING_MESSAGE_START", **span, "role": "reasoning"},
        {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "t"},
        {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
    ]
    last: tuple[str, Any] = ("message", FINISHED) if end == "RUN_FINISHED" else (end, {})
    encoder = AGUIEncoder("r", "t")
    said: list[tuple[str, Any]] = [*[("message", frame) for frame in own], last]
    frames = [frame for kind, data in said for frame in encoder.encode(kind, data)]
    assert frames[: len(own)] == own
    assert frames[len(own) : -1] == [
        {"type": "TEXT_MESSAGE_END", "messageId": "m"},
        {"type": "TOOL_CALL_END", "toolCallId": "c"},
        {"type": "REASONING_MESSAGE_END", **span},
        {"type": "REASONING_END", **span},
        {"type": "STEP_FINISHED", "stepName": "plan", **within},
        {"type": "SUBAGENT_ERROR", **within, "message": "it did not finish"},
        {"type": "STEP_FINISHED", "stepName": "plan"},
    ]
    assert types(frames[-1:]) == ["RUN_FINISHED"]


def test_a_passed_agent_may_speak_a_version_before() -> None:
    own = [
        {"type": "THINKING_START", "title": "plan"},
        {"type": "THINKING_TEXT_MESSAGE_START"},
        {"type": "THINKING_TEXT_MESSAGE_CONTENT", "delta": "hm"},
    ]
    ended = [{"type": "THINKING_TEXT_MESSAGE_END"}, {"type": "THINKING_END"}]
    encoder = AGUIEncoder("r", "t")
    said = [*[("message", frame) for frame in own], ("run_stopped", {})]
    frames = [frame for kind, data in said for frame in encoder.encode(kind, data)]
    assert frames[1:-1] == [*own, *ended]
    assert after_a_gap(*own[2:], *ended) == []


def test_a_passed_agent_begins_no_run_that_has_begun() -> None:
    own: Any = {"type": "RUN_STARTED", "threadId": "x", "runId": "y"}
    frames = spelled(("mine", 1), ("message", own), COMPLETE)
    assert types(frames) == ["RUN_STARTED", "CUSTOM", "RUN_FINISHED"]


def test_a_gap_is_told() -> None:
    encoder = AGUIEncoder("r", "t")
    frames = [*encoder.notice("holdfast.gap", {"requested": "0", "earliest": "1-1"})]
    assert frames == [
        STARTED,
        {
            "type": "CUSTOM",
            "name": "holdfast.gap",
            "value": {"requested": "0", "earliest": "1-1"},
        },
    ]
    assert len([*encoder.notice("holdfast.reset", {})]) == 1


def test_after_a_gap_a_passed_agent_goes_on_with_nothing_that_was_not_told() -> None:
    encoder = AGUIEncoder("r", "t")
    gone: list[Any] = [
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "kelp"},
        {"type": "TEXT_MESSAGE_END", "messageId": "m"},
        {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": "{}"},
        {"type": "STEP_FINISHED", "stepName": "plan"},
    ]
    new: list[Any] = [
        {"type": "TEXT_MESSAGE_START", "messageId": "n", "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "n", "delta": "holds"},
        {"type": "TEXT_MESSAGE_END", "messageId": "n"},
    ]
    frames: list[Any] = [*encoder.notice("holdfast.gap", {})]
    frames += [found for frame in [*gone, *new] for found in encoder.encode("message", frame)]
    assert types(frames[:2]) == ["RUN_STARTED", "CUSTOM"]
    assert frames[2:] == new


def after_a_gap(*frames: Any, before: tuple[Any, ...] = ()) -> list[Any]:
    """What is told of *frames*, where events are gone between them and those *before*."""
    encoder = AGUIEncoder("r", "t")
    told: list[Any] = [found for frame in before for found in encoder.encode("message", frame)]
    told += encoder.notice("holdfast.gap", {})
    since = len(told)
    told += [found for frame in frames for found in encoder.encode("message", frame)]
    return told[since:]


BEGUN: list[Any] = [
    {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
    {"type": "STEP_STARTED", "stepName": "plan"},
    {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "t"},
]
ENDED: list[Any] = [
    {"type": "TEXT_MESSAGE_END", "messageId": "m"},
    {"type": "STEP_FINISHED", "stepName": "plan"},
    {"type": "TOOL_CALL_END", "toolCallId": "c"},
]


@pytest.mark.parametrize(("begun", "ended"), [*zip(BEGUN, ENDED, strict=True)])
def test_what_begins_again_after_a_gap_is_ended_first(begun: Any, ended: Any) -> None:
    assert after_a_gap(begun, ended, before=(STARTED, begun)) == [ended, begun, ended]
    # It has ended, and that it began again is gone.
    assert after_a_gap(ended, before=(STARTED, begun, ended)) == []


def test_after_a_gap_a_subagent_is_within_one_that_was_told() -> None:
    within = {"subagentRunId": "b", "parentSubagentRunId": "a"}
    started: Any = {"type": "SUBAGENT_STARTED", "name": "writer"}
    step: Any = {"stepName": "plan", "subagentRunId": "b"}
    untold = after_a_gap(
        {"type": "STEP_STARTED", "stepName": "plan"},
        {"type": "STEP_FINISHED", **step},
        {"type": "SUBAGENT_FINISHED", "subagentRunId": "b"},
        {**started, "subagentRunId": "c", "parentSubagentRunId": "a"},
    )
    assert types(untold) == ["STEP_STARTED", "SUBAGENT_STARTED"]
    assert untold[-1] == {**started, "subagentRunId": "c"}
    told = {**started, "subagentRunId": "a"}
    assert after_a_gap({**started, **within}, before=(told,)) == [{**started, **within}]
    # A run that was begun anew, or an agent, may use a name again; a client refuses that.
    assert after_a_gap(told, before=(told,)) == []


def test_after_a_gap_a_chunk_is_of_something_that_was_told() -> None:
    text: Any = {"type": "TEXT_MESSAGE_CHUNK", "delta": "kelp"}
    call: Any = {"type": "TOOL_CALL_CHUNK", "toolCallId": "c", "delta": "{}"}
    named = [{**text, "messageId": "m"}, {**call, "toolCallName": "t"}]
    assert after_a_gap(text, call, before=(STARTED, *named, text)) == []
    assert after_a_gap(named[0], text, named[1], call) == [named[0], text, named[1], call]
    assert after_a_gap(named[1], {**call, "toolCallId": "d"}) == named[1:]


def test_after_a_gap_a_result_is_of_a_call_that_was_told() -> None:
    result: Any = {"type": "TOOL_CALL_RESULT", "messageId": "m", "toolCallId": "c", "content": ""}
    assert after_a_gap(result) == []
    call: Any = {"id": "c", "type": "function", "function": {"name": "t", "arguments": "{}"}}
    message = {"id": "a", "role": "assistant", "toolCalls": [call]}
    chunk: Any = {"type": "TOOL_CALL_CHUNK", "toolCallId": "c", "toolCallName": "t"}
    for told in (BEGUN[2], chunk, {"type": "MESSAGES_SNAPSHOT", "messages": [message]}):
        assert after_a_gap(result, before=(told,)) == [result]
        assert after_a_gap(told, result) == [told, result]


@settings(max_examples=60)
@given(STORIES, st.integers(0, 30), st.integers(1, 10))
def test_whatever_is_gone_of_a_passed_agent_the_rest_is_a_stream(
    story: Any, first: int, length: int
) -> None:
    *own, last = spelled(*story)
    encoder = AGUIEncoder("r", "t")
    frames: list[Any] = [f for each in own[:first] for f in encoder.encode("message", each)]
    frames += encoder.notice("holdfast.gap", {})
    rest = [*own[first + length :], last]
    frames += [f for each in rest for f in encoder.encode("message", each)]
    check(frames)


def test_after_a_gap_a_call_is_told_whole() -> None:
    encoder = AGUIEncoder("r", "t")
    gap = [*encoder.notice("holdfast.gap", {})]
    call = {"call": "c", "tool": "t"}
    told: list[Any] = [*gap, *encoder.encode("tool_call_delta", {**call, "text": '":1}'})]
    told += encoder.encode("tool_call", {**call, "arguments": {"a": 1}})
    check(told)
    assert [frame["delta"] for frame in told if "delta" in frame] == ['{"a":1}']


def test_an_agent_may_speak_the_protocol_and_events_of_a_run_in_turn() -> None:
    def passed(kind: str, **names: str) -> tuple[str, Any]:
        return "message", {"type": kind, **names}

    message, call = {"messageId": "m"}, {"toolCallId": "c"}
    frames = spelled(
        passed("TEXT_MESSAGE_START", **message, role="assistant"),
        ("token", {"text": "It ", "message": "m"}),
        passed("TEXT_MESSAGE_CONTENT", **message, delta="holds."),
        ("model_finished", {"message": "m"}),
        passed("TEXT_MESSAGE_END", **message),
        passed("TOOL_CALL_START", **call, toolCallName="t"),
        ("tool_call_delta", {"call": "c", "tool": "t", "text": "{}"}),
        ("tool_call", {"call": "c", "tool": "t", "arguments": {}}),
        passed("TOOL_CALL_END", **call),
        ("node_started", {"node": "plan", "id": "1"}),
        passed("STEP_STARTED", stepName="plan"),
        passed("STEP_FINISHED", stepName="plan"),
        ("node_output", {"node": "plan", "id": "1", "output": 1}),
        ("token", {"text": "It ", "message": "n"}),
        passed("TEXT_MESSAGE_CHUNK", messageId="n", delta="floats."),
        COMPLETE,
    )
    assert types(frames)[1:-1] == [
        *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"),
        *("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END"),
        *("STEP_STARTED", "STEP_FINISHED", "STEP_STARTED", "STEP_FINISHED", "CUSTOM"),
        *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "TEXT_MESSAGE_CHUNK"),
    ]

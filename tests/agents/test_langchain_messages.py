"""What messages of several providers say, by LangChain's own types."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.messages.tool import invalid_tool_call

from holdfast.agents.langchain_messages import ModelCall, result, tool_messages

CHUNKS: dict[str, tuple[Any, list[tuple[str, str]]]] = {
    "text": ("It holds.", [("token", "It holds.")]),
    "nothing": ("", []),
    "blocks": (
        [{"type": "text", "text": "It "}, {"type": "text", "text": ""}, "holds."],
        [("token", "It "), ("token", "holds.")],
    ),
    "reasoning": ([{"type": "reasoning", "reasoning": "hm"}], [("thinking", "hm")]),
    "thinking": ([{"type": "thinking", "thinking": "hm"}], [("thinking", "hm")]),
    "an image": ([{"type": "image_url", "image_url": {"url": "https://kelp"}}], []),
}


@pytest.mark.parametrize(("content", "expected"), CHUNKS.values(), ids=CHUNKS.keys())
def test_a_chunk_says_text_and_reasoning(content: Any, expected: Any) -> None:
    provider = {"model_provider": "anthropic"} if "thinking" in str(content) else {}
    chunk = AIMessageChunk(content=content, response_metadata=provider)
    said = list(ModelCall("m", {"node": "n"}).chunk(chunk))
    assert [(kind, data["text"]) for kind, data in said] == expected
    assert all((data["message"], data["node"]) == ("m", "n") for _, data in said)


def test_reasoning_beside_the_text_is_told_first() -> None:
    chunk = AIMessageChunk(content="It ", additional_kwargs={"reasoning_content": "hm"})
    said = list(ModelCall("m", {}).chunk(chunk))
    assert [(kind, data["text"]) for kind, data in said] == [("thinking", "hm"), ("token", "It ")]


def piece(text: str, **more: Any) -> AIMessageChunk:
    found = {"name": None, "args": text, "id": None, "index": None, **more}
    return AIMessageChunk(content="", tool_call_chunks=[found])


def test_pieces_of_calls_belong_to_the_call_that_was_named() -> None:
    call = ModelCall("m", {})
    said = [
        data["call"]
        for chunk in (
            *(piece("{", name="a", id="c1"), piece("}"), piece("{", name="b", id="c2")),
            *(piece("}"), piece("{", name="c", index=7), piece("}", index=7)),
        )
        for _, data in call.chunk(chunk)
    ]
    assert said == ["c1", "c1", "c2", "c2", "m:2", "m:2"]


def test_a_whole_message_says_its_calls_its_reason_and_its_use() -> None:
    message = AIMessage(
        "Wait.",
        tool_calls=[
            {"name": "t", "args": {"a": 1}, "id": "c"},
            {"name": "u", "args": {}, "id": None},
        ],
        invalid_tool_calls=[invalid_tool_call(name="v", args="{oops", id="d")],
        response_metadata={"stop_reason": "tool_use"},
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    )
    assert list(ModelCall("m", {}).finished(message)) == [
        ("token", {"text": "Wait.", "message": "m"}),
        ("tool_call", {"call": "c", "tool": "t", "arguments": {"a": 1}, "message": "m"}),
        ("tool_call", {"call": "m:1", "tool": "u", "arguments": {}, "message": "m"}),
        ("tool_call", {"call": "d", "tool": "v", "arguments": "{oops", "message": "m"}),
        (
            "model_finished",
            {"message": "m", "reason": "tool_use", "usage": message.usage_metadata},
        ),
    ]


def test_what_a_tool_gave() -> None:
    failed = ToolMessage("no", tool_call_id="c", name="t", status="error")
    assert result(failed, call=None, tool="") == (
        "tool_error",
        {"call": "c", "tool": "t", "error": {"type": "ToolError", "message": "no"}},
    )
    assert result({"a": 1}, call=None, tool="t", run="i") == (
        "tool_result",
        {"call": "i", "tool": "t", "id": "i", "output": {"a": 1}},
    )


def test_messages_of_tools_are_looked_for_only_so_deep() -> None:
    cycle: list[Any] = [ToolMessage("a", tool_call_id="c")]
    cycle.append(cycle)
    found = [*tool_messages({"messages": cycle})]
    assert {each.content for each in found} == {"a"}
    assert len(found) < 10

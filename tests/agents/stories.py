"""What an agent may say, in any order: for whoever has to tell it in a format of its own."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

MESSAGES = st.sampled_from(["m1", "m2", None])
CALLS = st.sampled_from(["c1", "c2", 3])
NODES = st.sampled_from(["plan", "write"])
IDS = st.sampled_from(["i1", "i2"])
VALUES = st.sampled_from([None, "text", {"a": [1]}, 7])
USAGE = st.sampled_from([None, {"input_tokens": 3}, {"output_tokens": -1, "total_tokens": True}])
ERRORS = st.just({"type": "ValueError", "message": "no"})


def _of(kind: str, **parts: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, Any]]:
    return st.tuples(st.just(kind), st.fixed_dictionaries(parts))


EVENTS = st.one_of(
    _of("token", text=st.sampled_from(["", "kelp"]), message=MESSAGES),
    _of("thinking", text=st.sampled_from(["", "hm"]), message=MESSAGES),
    _of("model_started", message=MESSAGES, model=st.sampled_from(["large", None])),
    _of("model_finished", message=MESSAGES, usage=USAGE),
    _of("model_error", message=MESSAGES, error=ERRORS),
    _of("tool_call_delta", call=CALLS, tool=st.just("t"), text=st.just("{"), message=MESSAGES),
    _of("tool_call", call=CALLS, tool=st.just("t"), arguments=VALUES, message=MESSAGES),
    _of("tool_started", call=CALLS, tool=st.just("t"), arguments=VALUES, id=IDS),
    _of("tool_result", call=CALLS, tool=st.just("t"), output=VALUES, id=IDS),
    _of("tool_error", call=CALLS, tool=st.just("t"), error=ERRORS, id=IDS),
    _of("node_started", node=NODES, id=IDS),
    _of("node_output", node=NODES, id=IDS, output=VALUES),
    _of("node_error", node=NODES, id=IDS, error=ERRORS),
    _of("interrupt", interrupts=st.sampled_from([[], [{"id": "q", "value": 1}], "?", ["?"]])),
    _of("state", state=VALUES),
    _of("output", name=st.just("graph"), output=VALUES),
    st.tuples(st.sampled_from(["token", "tool_call", "node_started", "mine"]), VALUES),
    st.tuples(st.just("message"), st.sampled_from(["text", {"type": ["x"]}, {"type": "other"}])),
)
ENDS = st.one_of(
    _of("workflow_complete", output=VALUES),
    _of("workflow_error", error=ERRORS),
    st.just(("workflow_error", None)),
    st.just(("run_stopped", {})),
    st.just(("run_lost", {})),
)
STORIES = st.tuples(st.lists(EVENTS, max_size=25), ENDS).map(lambda story: [*story[0], story[1]])

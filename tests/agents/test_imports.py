"""Nothing of an agent's library is loaded before somebody uses its adapter."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import holdfast
import holdfast.agents
import holdfast.agents.openai
for name in ("openai", "langchain_core", "langgraph", "ag_ui"):
    assert name not in sys.modules, name
import holdfast.agents.ag_ui
import holdfast.agents.ai_sdk
for name in ("openai", "langchain_core", "langgraph", "ag_ui"):
    assert name not in sys.modules, name
import holdfast.agents.langchain
for name in ("openai", "langgraph", "ag_ui"):
    assert name not in sys.modules, name
"""


def test_an_adapter_loads_its_own_library_alone() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], check=True, timeout=60)

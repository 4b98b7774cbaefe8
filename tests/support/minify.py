"""Makes a script small, as a build would: enough to hold `holdfast.js` to its size, no more.

Comments and spaces go, and names that are nowhere a property get short ones. What comes out is not
trusted: a test runs it in a browser.
"""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
      (?P<gap>//[^\n]*|\s+)
    | (?P<text>"(?:[^"\\\n]|\\.)*"
             | /(?![/*\s])(?:[^/\\\n\[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*(?=[.,)]))
    | (?P<word>\.{0,3}[\w$]+)
    | (?P<rest>\?\.\w+|.)
    """,
    re.VERBOSE,
)
_DECLARED = re.compile(r"\b(?:function|const|let)\s+([a-z]\w{2,})")


def minified(source: str) -> str:
    """Return *source* without comments and spaces, its long local names shortened."""
    tokens = [(match.lastgroup, match[0]) for match in _TOKEN.finditer(source)]
    short = dict(zip(sorted(_local_names(source, tokens)), _short_names(), strict=False))
    out: list[str] = []
    apart = False
    for kind, token in tokens:
        if kind == "gap":
            apart = True
            continue
        text = short.get(token, token) if kind == "word" else token
        if apart and out and re.match(r"[\w$]", text) and re.search(r"[\w$]$", out[-1]):
            out.append(" ")
        out.append(text)
        apart = False
    text = "".join(out)
    # Names inside a template literal.
    return re.sub(r"\$\{(\w+)", lambda found: "${" + short.get(found[1], found[1]), text)


def _local_names(source: str, tokens: list[tuple[str | None, str]]) -> set[str]:
    """The declared names that are never a key, a property or part of a destructuring."""
    names = set(_DECLARED.findall(source)) - {"follow"}
    solid = [token for kind, token in tokens if kind != "gap"]
    for before, token, after in zip(["", *solid], solid, [*solid[1:], ""], strict=False):
        key = after == ":" or (before in {"{", ","} and after in {",", "}", "="})
        if token in names and key and before not in {"(", "["}:
            names.discard(token)
    return names


def _short_names() -> Iterator[str]:
    for number in count():
        first, second = divmod(number, 26)
        yield f"_{chr(97 + second)}{first or ''}"

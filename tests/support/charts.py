"""Grouped bars as SVG, drawn by hand: a chart in a page needs no library to be looked at."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLORS = ("#9aa5b1", "#3e4c59", "#a3d9c9", "#147d64")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 330, 64, 64, 48


def bars(
    title: str, unit: str, groups: Sequence[str], values: Mapping[str, Sequence[float | None]]
) -> str:
    """Return an SVG with one group of bars for each of *groups*, on a logarithmic axis.

    Args:
        title, unit: above the chart, and at its axis.
        groups: the names below the groups.
        values: of each contender, one value for each group; ``None`` for no bar.
    """
    known = [value for row in values.values() for value in row if value]
    low = 10 ** math.floor(math.log10(min(known)))
    high = 10 ** math.ceil(math.log10(max(known) * 1.05))
    floor = TOP + HEIGHT

    def y(value: float) -> float:
        return floor - HEIGHT * (math.log10(value / low) / math.log10(high / low))

    parts = [_text(LEFT, 22, title, size=15, weight="600")]
    tick = low
    while tick <= high * 1.001:
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"'
            ' stroke="#e4e7eb"/>'
        )
        parts.append(_text(LEFT - 8, y(tick) + 4, f"{tick:g}", anchor="end"))
        tick *= 10
    parts.append(_text(LEFT - 8, TOP - 14, unit, anchor="end"))
    step = (WIDTH - LEFT - 24) / len(groups)
    bar = step * 0.8 / len(values)
    for place, (name, row) in enumerate(values.items()):
        parts.append(_legend(place, name))
        for index, value in enumerate(row):
            if value:
                x = LEFT + 8 + index * step + place * bar
                parts.append(
                    _bar(x, y(value), bar, floor, COLORS[place], f"{name}: {_short(value)}")
                )
                parts.append(_text(x + bar / 2, y(value) - 4, _short(value), size=9))
    for index, group in enumerate(groups):
        parts.append(_text(LEFT + 8 + index * step + step * 0.4, floor + 20, group))
    size = f"0 0 {WIDTH} {floor + BOTTOM}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" role="img"'
        f' aria-label="{escape(title)}" font-family="system-ui, sans-serif">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bar(x: float, top: float, width: float, floor: float, color: str, told: str) -> str:
    height = max(floor - top, 1)
    return (
        f'<rect x="{x:.1f}" y="{top:.1f}" width="{width - 2:.1f}" height="{height:.1f}"'
        f' fill="{color}"><title>{escape(told)}</title></rect>'
    )


def _legend(place: int, name: str) -> str:
    x = LEFT + place * 168
    square = f'<rect x="{x}" y="34" width="11" height="11" fill="{COLORS[place]}"/>'
    return square + _text(x + 16, 44, name, anchor="start")


def _text(
    x: float, y: float, text: str, *, size: int = 11, anchor: str = "", weight: str = "400"
) -> str:
    anchor = anchor or ("start" if size > 11 else "middle")
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}"'
        f' text-anchor="{anchor}" fill="#1f2933">{escape(text)}</text>'
    )

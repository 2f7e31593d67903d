"""The growth curves as a drawing: how many times as long something takes as at its first size."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import log10
from operator import attrgetter
from xml.sax.saxutils import escape

from bench.result import Curve

WIDTH, PANEL, LINE = 960, 260, 18
LEFT, RIGHT, TOP, BOTTOM = 50, 560, 34, 40
COLORS = ("#1d4ed8", "#b45309", "#15803d", "#be123c", "#7e22ce", "#0e7490", "#4d7c0f", "#475569")
BAR = 2.0
"""The most that growth may cost."""


def draw(curves: Sequence[Curve]) -> str:
    """An SVG with a panel for each thing that grows, its sizes on a logarithmic axis.

    What is up to BAR times the first figure lies in the green.
    """
    panels: list[str] = []
    top = 0
    for around, grouped in groupby(sorted(curves, key=attrgetter("around")), attrgetter("around")):
        drawn = [curve for curve in grouped if len(curve.points) > 1]
        if drawn:
            height = max(PANEL, TOP + BOTTOM + LINE * len(drawn))
            panels += [f'<g transform="translate(0 {top})">', *_panel(around, drawn), "</g>"]
            top += height
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}"'
            ' font-family="system-ui, sans-serif" font-size="12" role="img">',
            "<title>How lists and decisions grow</title>",
            f'<rect width="{WIDTH}" height="{top}" fill="#f8fafc"/>',
            *panels,
            "</svg>\n",
        ]
    )


def _panel(around: str, curves: Sequence[Curve]) -> Iterator[str]:
    sizes = sorted({size for curve in curves for size, _ in curve.points})
    most = max(2 * BAR, *(value for curve in curves for _, value in _relative(curve)))
    low, high = log10(sizes[0]), log10(sizes[-1])

    def x(size: int) -> float:
        return LEFT + (log10(size) - low) / ((high - low) or 1) * (RIGHT - LEFT)

    def y(value: float) -> float:
        return PANEL - BOTTOM - value / most * (PANEL - BOTTOM - TOP)

    yield f'<text x="{LEFT}" y="20" font-weight="600">times as long, by {escape(around)}</text>'
    yield (
        f'<rect x="{LEFT}" y="{y(BAR):.1f}" width="{RIGHT - LEFT}"'
        f' height="{y(0) - y(BAR):.1f}" fill="#dcfce7"/>'
    )
    for value in (0.0, 1.0, BAR, most):
        yield f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
    for size in sizes:
        yield f'<text x="{x(size):.1f}" y="{y(0) + 18:.1f}" text-anchor="middle">{size:,}</text>'
    for number, curve in enumerate(curves):
        color = COLORS[number % len(COLORS)]
        points = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in _relative(curve))
        yield f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
        name = escape(curve.what)
        yield f'<text x="{RIGHT + 16}" y="{TOP + LINE * number}" fill="{color}">{name}</text>'


def _relative(curve: Curve) -> list[tuple[int, float]]:
    first = curve.points[0][1]
    return [(size, value / first) for size, value in curve.points]

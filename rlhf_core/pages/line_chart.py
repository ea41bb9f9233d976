"""A small line chart as SVG, for pages that hold all they show and need no drawing library."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 840, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 40


class Line(NamedTuple):
    """One series: a name for the legend, a colour, and its points in order of x."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dots: bool


class Marked(NamedTuple):
    """A place on the x axis and what is there to be said of it."""

    x: float
    name: str


def line_chart(
    lines: Sequence[Line], *, x_label: str, y_label: str, marks: Sequence[Marked] = ()
) -> str:
    """The lines over common axes, with a legend; the same input gives the same text.

    Points that are not finite are left out; without any point there is no chart, but a sentence.
    """
    drawn = [
        line._replace(points=[p for p in line.points if all(map(math.isfinite, p))])
        for line in lines
    ]
    points = [point for line in drawn for point in line.points]
    if not points:
        return '<p class="soft">There is nothing to draw.</p>'
    across = _Axis.over([x for x, _ in points], LEFT, WIDTH - RIGHT, from_zero=True)
    up = _Axis.over([y for _, y in points], HEIGHT - BOTTOM, TOP, from_zero=False)
    parts = [_grid(across, up, x_label, y_label)]
    for x, name in marks:
        place = across.place(x)
        parts.append(
            f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
            'stroke="#b45309" stroke-dasharray="4 3"/>'
            f'<text x="{place - 4:.1f}" y="{TOP + 10}" text-anchor="end" fill="#b45309">'
            f"{escape(name)}</text>"
        )
    for line in drawn:
        places = [(across.place(x), up.place(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.8"/>'
        )
        if line.dots:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="{line.colour}"/>'
                for x, y in places
            ]
    legend = "".join(
        f'<span class="key"><span class="dot" style="background:{line.colour}"></span>'
        f"{escape(line.name)}</span>"
        for line in drawn
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" role="img" '
        f'aria-label="{escape(y_label)} over {escape(x_label)}" font-size="11.5" '
        'font-family="system-ui, Liberation Sans, sans-serif">'
        f"{''.join(parts)}</svg><figcaption>{legend}</figcaption></figure>"
    )


class _Axis(NamedTuple):
    """Values from `low` to `high` on pixels from `start` to `end`, with round ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float]

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, from_zero: bool) -> "_Axis":
        low, high = min(values), max(values)
        low = min(low, 0.0) if from_zero else low
        if high == low:
            low, high = low - 0.5, high + 0.5
        step = _round_step((high - low) / 5)
        first = math.floor(low / step)
        last = math.ceil(high / step)
        ticks = [step * number for number in range(first, last + 1)]
        return cls(ticks[0], ticks[-1], start, end, ticks)

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def _round_step(about: float) -> float:
    """1, 2 or 5 times a power of ten, at least `about`."""
    power: float = 10.0 ** math.floor(math.log10(about))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= about * 0.999)


def _grid(across: _Axis, up: _Axis, x_label: str, y_label: str) -> str:
    bottom = HEIGHT - BOTTOM
    horizontal = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up.place(tick):.1f}" '
        f'y2="{up.place(tick):.1f}" stroke="#e2e8f0"/>'
        f'<text x="{LEFT - 8}" y="{up.place(tick) + 4:.1f}" text-anchor="end" fill="#475569">'
        f"{tick:g}</text>"
        for tick in map(_tidy, up.ticks)
    )
    below = "".join(
        f'<text x="{across.place(tick):.1f}" y="{bottom + 16}" text-anchor="middle" '
        f'fill="#475569">{tick:g}</text>'
        for tick in map(_tidy, across.ticks)
    )
    return (
        f'{horizontal}{below}<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}" '
        f'stroke="#94a3b8"/><text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" '
        f'text-anchor="middle" fill="#475569">{escape(x_label)}</text>'
        f'<text x="12" y="{(TOP + bottom) / 2:.0f}" text-anchor="middle" fill="#475569" '
        f'transform="rotate(-90 12 {(TOP + bottom) / 2:.0f})">{escape(y_label)}</text>'
    )


def _tidy(tick: float) -> float:
    return round(tick, 10)

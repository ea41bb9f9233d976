"""Small drawings as SVG, written into a page: bars, several outlines over one axis, dots."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlhf_core.pages.html import text
from rlhf_core.pages.wording import short

WIDTH, HEIGHT = 400, 190
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 12, 30
LINE, INK, ACCENT = "#cbd5e1", "#475569", "#1d4ed8"


class Axes(NamedTuple):
    """The range of both axes, from which places in the drawing follow."""

    low: float
    high: float
    top: float
    bottom: float = 0.0

    def x(self, value: float) -> float:
        """Pixels from the left."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        span = self.top - self.bottom
        share = (value - self.bottom) / span if span > 0 else 0.0
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


class Outline(NamedTuple):
    """A histogram under its name and colour."""

    name: str
    colour: str
    histogram: Mapping[str, Sequence[float]]


def histograms(
    title: str,
    outlines: Sequence[Outline],
    *,
    mark: float | None = None,
    ticks: Sequence[tuple[float, str]] = (),
) -> str:
    """Each histogram as shares of its own count, over one axis, with a fine line at `mark`.

    The axis names the `ticks` within its range, or its ends and middle where there are none.
    """
    drawn = [outline for outline in outlines if outline.histogram["counts"]]
    edges = [edge for outline in drawn for edge in outline.histogram["edges"]]
    densities = [_densities(outline) for outline in drawn]
    axes = Axes(min(edges), max(edges), max(max(density) for density in densities))
    parts = [
        f'<path d="{_steps(outline.histogram["edges"], density, axes)}" fill="{outline.colour}" '
        f'fill-opacity="0.16" stroke="{outline.colour}" stroke-width="1.6"/>'
        for outline, density in zip(drawn, densities, strict=True)
    ]
    if mark is not None and axes.low < mark < axes.high:
        parts.append(
            f'<line x1="{axes.x(mark):.1f}" x2="{axes.x(mark):.1f}" y1="{TOP}" '
            f'y2="{HEIGHT - BOTTOM}" stroke="{INK}" stroke-dasharray="3 3"/>'
        )
    names = [(outline.name, outline.colour) for outline in drawn]
    within = [tick for tick in ticks if axes.low <= tick[0] <= axes.high]
    return _figure(title, parts, axes, names, within)


def reliability(title: str, bins: Sequence[Mapping[str, float]]) -> str:
    """What came true over what was promised, both from one half to 1; dots grow with the pairs."""
    lowest = min(0.5, *(part["found"] for part in bins))
    axes = Axes(0.5, 1.0, 1.0, lowest)
    most = max(part["pairs"] for part in bins)
    parts = [
        (
            f'<line x1="{axes.x(0.5):.1f}" y1="{axes.y(0.5):.1f}" x2="{axes.x(1):.1f}" '
            f'y2="{axes.y(1):.1f}" stroke="{LINE}" stroke-width="1.5"/>'
        )
    ]
    for part in bins:
        size = 2.5 + 3 * (part["pairs"] / most) ** 0.5
        parts.append(
            f'<circle cx="{axes.x(part["promised"]):.1f}" cy="{axes.y(part["found"]):.1f}" '
            f'r="{size:.1f}" fill="{ACCENT}" fill-opacity="0.8"/>'
        )
    parts += [_label(LEFT - 6, axes.y(value), short(value), "end") for value in (lowest, 1.0)]
    return _figure(title, parts, axes, [])


def _densities(outline: Outline) -> list[float]:
    """Share of the count per unit of the axis, so that bins of different widths compare."""
    edges, counts = outline.histogram["edges"], outline.histogram["counts"]
    total = sum(counts)
    return [
        count / total / max(high - low, 1e-12)
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    ]


def _steps(edges: Sequence[float], heights: Sequence[float], axes: Axes) -> str:
    path = [f"M{axes.x(edges[0]):.1f},{axes.y(0):.1f}"]
    for low, high, height in zip(edges[:-1], edges[1:], heights, strict=True):
        path.append(f"L{axes.x(low):.1f},{axes.y(height):.1f}")
        path.append(f"L{axes.x(high):.1f},{axes.y(height):.1f}")
    return " ".join([*path, f"L{axes.x(edges[-1]):.1f},{axes.y(0):.1f}Z"])


def _label(x: float, y: float, content: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y + 4:.1f}" font-size="11" fill="{INK}" '
        f'text-anchor="{anchor}">{text(content)}</text>'
    )


def _figure(
    title: str,
    parts: Sequence[str],
    axes: Axes,
    names: Sequence[tuple[str, str]],
    ticks: Sequence[tuple[float, str]] = (),
) -> str:
    base = HEIGHT - BOTTOM
    frame = [f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}" stroke="{LINE}"/>']
    if ticks:
        frame += [_label(axes.x(value), base + 14, name, "middle") for value, name in ticks]
    else:
        middle = (axes.low + axes.high) / 2
        frame += [
            _label(axes.x(value), base + 14, short(value), anchor)
            for value, anchor in ((axes.low, "start"), (middle, "middle"), (axes.high, "end"))
        ]
    key = " ".join(
        f'<span class="key"><span class="dot" style="background:{colour}"></span>'
        f"{text(name)}</span>"
        for name, colour in names
    )
    return (
        f'<figure class="drawing"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{text(title)}">{"".join([*frame, *parts])}</svg>'
        f"<figcaption>{text(title)} {key}</figcaption></figure>"
    )

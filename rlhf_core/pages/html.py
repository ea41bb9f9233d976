"""Pieces of HTML; whatever comes from outside is escaped here."""

from collections.abc import Sequence
from html import escape

from rlhf_core.pages.wording import bounds, decimal, percent
from rlhf_core.statistics import Interval

WHISKER_WIDTH, WHISKER_HEIGHT = 118, 16


def document(title: str, sections: Sequence[str], stylesheet: str) -> str:
    """A whole page that needs no other file and runs nothing."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{stylesheet}</style></head><body><main>\n"
        + "\n".join(sections)
        + "\n</main></body></html>"
    )


def text(content: str) -> str:
    """Text as the reader shall see it, whatever characters it holds."""
    return escape(content, quote=True)


def tile(figure: str, about: str) -> str:
    """One headline figure."""
    return f'<div class="tile"><b>{text(figure)}</b><span>{text(about)}</span></div>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, ours: int | None = None) -> str:
    """A table whose cells are HTML already; row number `ours` stands out."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = "".join(
        ('<tr class="ours">' if number == ours else "<tr>")
        + "".join(f"<td>{cell}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(rows)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def estimate(interval: Interval, *, share: bool = False) -> str:
    """A mean with its bounds below it."""
    word = percent if share else decimal
    return f"{text(word(interval.mean))}<small>{text(bounds(interval, word))}</small>"


def whisker(
    interval: Interval, low: float, high: float, *, colour: str, mark: float | None = None
) -> str:
    """The interval drawn on a line from `low` to `high`, with a fine line at `mark`."""

    def place(value: float) -> str:
        share = (value - low) / (high - low) if high > low else 0.5
        return f"{5 + min(max(share, 0.0), 1.0) * (WHISKER_WIDTH - 10):.1f}"

    middle = WHISKER_HEIGHT // 2
    fine = (
        f'<line x1="{place(mark)}" x2="{place(mark)}" y1="0" y2="{WHISKER_HEIGHT}" '
        'stroke="#94a3b8" stroke-dasharray="2 2"/>'
        if mark is not None
        else ""
    )
    return (
        f'<svg width="{WHISKER_WIDTH}" height="{WHISKER_HEIGHT}" aria-hidden="true">'
        f'<line x1="5" x2="{WHISKER_WIDTH - 5}" y1="{middle}" y2="{middle}" stroke="#e2e8f0"/>'
        f'{fine}<line x1="{place(interval.low)}" x2="{place(interval.high)}" y1="{middle}" '
        f'y2="{middle}" stroke="{colour}" stroke-width="3"/>'
        f'<circle cx="{place(interval.mean)}" cy="{middle}" r="4.5" fill="{colour}"/></svg>'
    )

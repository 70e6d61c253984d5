"""Pictures of a check as SVG, in the page's own colours so that light and dark both suit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

WIDTH, LABEL, VALUE, BAR, GAP = 560, 165, 90, 16, 8
"""Of a bar chart: the whole, its labels, its values, a bar and the space between two."""

MOST_BARS = 10
"""Of a chart; what is left is summed up in one more."""


def bars(
    values: Mapping[str, int], kinds: Mapping[str, str] | None = None, unit: str = "", ordered: bool = True
) -> Markup:
    """Draws values as horizontal bars.

    Args:
        values: by name.
        kinds: the class of a bar by its name, for its colour.
        unit: what a value counts, for a reader of the tooltip.
        ordered: the largest first; else as they come.
    """
    told = sorted(values.items(), key=lambda each: -each[1]) if ordered else list(values.items())
    if len(told) > MOST_BARS + 1:
        rest = told[MOST_BARS:]
        others = f"{len(rest)} others"
        told = [*told[:MOST_BARS], (others, sum(count for _, count in rest))]
        kinds = {**(kinds or {}), others: "rest"}
    total = sum(values.values())
    most = max((count for _, count in told), default=1)
    room, drawn = WIDTH - LABEL - VALUE, []
    for i, (name, count) in enumerate(told):
        y = i * (BAR + GAP)
        length = max(2.0, room * count / most)
        kind = (kinds or {}).get(name, "bar")
        label = name if len(name) <= 20 else name[:19] + "…"
        drawn.append(
            f"<g><title>{escape(name)}: {count:,} {escape(unit)}</title>"
            f'<text class="label" x="{LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="3"/>'
            f'<text class="value" x="{LABEL + length + 6:.1f}" y="{y + 13}">{count:,}'
            f'<tspan class="quiet"> {count / total:.0%}</tspan></text></g>'
        )
    return _svg(WIDTH, max(1, len(told)) * (BAR + GAP), drawn)


def histogram(edges: Sequence[int], counts: Sequence[int], limit: int, unit: str = "tokens") -> Markup:
    """Draws how many examples are how long, and the line beyond which they are too long."""
    high, left, foot = 150, 8, 22
    last = max(edges[-1], limit if limit <= 1.5 * edges[-1] else 0)
    scale, most, drawn = (WIDTH - 2 * left) / last, max(counts), []
    for start, end, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            tall = max(1.5, (high - 16) * count / most)
            kind = "over" if start >= limit else "bar"
            drawn.append(
                f'<g><title>{start:,} to {end - 1:,} {unit}: {count:,} examples</title><rect class="{kind}" '
                f'x="{left + scale * start + 0.75:.1f}" y="{high - tall:.1f}" '
                f'width="{max(1.0, scale * (end - start) - 1.5):.1f}" height="{tall:.1f}" rx="2"/></g>'
            )
    drawn.append(f'<line class="axis" x1="{left}" y1="{high}" x2="{WIDTH - left}" y2="{high}"/>')
    for tick in ticks(last):
        x = left + scale * tick
        anchor = "start" if tick == 0 else "middle"
        drawn.append(f'<text class="tick" x="{x:.1f}" y="{high + 15}" text-anchor="{anchor}">{tick:,}</text>')
    if limit <= last:
        x = left + scale * limit
        anchor, shift = ("end", -6) if x > WIDTH / 2 else ("start", 6)
        drawn.append(f'<line class="limit" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{high}"/>')
        told = f"max_length {limit:,}"
        drawn.append(f'<text class="limit-label" x="{x + shift:.1f}" y="12" text-anchor="{anchor}">{told}</text>')
    return _svg(WIDTH, high + foot, drawn)


def share(part: int, whole: int, names: tuple[str, str]) -> Markup:
    """Draws one bar of two parts, with what each is."""
    cut = WIDTH * part / whole if whole else 0
    rest = whole - part
    return _svg(
        WIDTH,
        48,
        [
            f'<rect class="rest" x="0" y="0" width="{WIDTH}" height="20" rx="4"/>',
            f'<rect class="bar" x="0" y="0" width="{cut:.1f}" height="20" rx="4"/>',
            f'<text class="value" x="0" y="39">{escape(names[0])} {part:,}'
            f'<tspan class="quiet"> {part / max(1, whole):.0%}</tspan></text>',
            f'<text class="value" x="{WIDTH}" y="39" text-anchor="end">{escape(names[1])} {rest:,}</text>',
        ],
    )


def ticks(last: int) -> list[int]:
    """Chooses four to nine round numbers from 0 up."""
    steps = (digit * 10**power for power in range(10) for digit in (1, 2, 5))
    step = next(step for step in steps if last / step <= 8)
    return list(range(0, last + 1, step))


def _svg(width: int, height: int, drawn: Sequence[str]) -> Markup:
    body = "".join(drawn)
    return Markup(f'<svg viewBox="0 0 {width} {height}" width="100%" role="img">{body}</svg>')

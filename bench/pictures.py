"""One SVG picture per claim: a bar per tool, the limit as a line, the goal as a mark. No library, no script.

Colours hold on white and on black paper: text takes a grey that both bear, bars are filled.
"""

from __future__ import annotations

from html import escape

from bench.results import Claim

WIDTH, LEFT, RIGHT = 760, 230, 90
BAR, GAP, TOP = 20, 8, 64
FOOT = 34
INK, FAINT = "#7a7f87", "#9aa0a8"
OURS, OTHER_OURS, THEIRS, AGAINST = "#2f7fd1", "#8fb8e3", "#a9b0b9", "#d1862f"
GOAL, LIMIT = "#3a9a5c", "#b5475a"

STYLE = "font-family: system-ui, sans-serif; font-size: 13px"


def picture(claim: Claim) -> str:
    """The claim's bars, longest value to the right edge; ours first."""
    bars = [(claim.ours_tool, claim.ours, OURS)]
    bars += [
        (name, value, _colour(name, claim.against))
        for name, value in sorted(claim.peers.items(), key=lambda pair: pair[1], reverse=claim.better == "higher")
    ]
    marks = _marks(claim)
    top = max([value for _, value, _ in bars] + [value for _, value, _ in marks]) or 1.0
    height = TOP + len(bars) * (BAR + GAP) + FOOT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" style="{STYLE}">',
        f"<title>{escape(claim.id)}: {escape(claim.work)}</title>",
        _text(10, 22, f"{claim.id}: {claim.work}", size=15, weight="600"),
        _text(10, 42, _subtitle(claim), colour=FAINT),
    ]
    for row, (name, value, colour) in enumerate(bars):
        lines += _bar(row, name, value, top=top, colour=colour)
    for value, label, colour in [(value, label, colour) for label, value, colour in marks]:
        lines += _line(value, label, top=top, height=height, colour=colour)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _colour(name: str, against: str) -> str:
    if name == against:
        return AGAINST
    return OTHER_OURS if name.startswith("ours") else THEIRS


def _subtitle(claim: Claim) -> str:
    verdict = "met" if claim.met else "missed"
    sign = "at least" if claim.better == "higher" else "at most"
    parts = [f"{claim.unit}, {claim.better} is better", claim.condition]
    parts.append(f"{claim.ratio:.2f} x {claim.against}, goal {sign} {claim.goal:g}: {verdict}")
    return " · ".join(part for part in parts if part)


def _marks(claim: Claim) -> list[tuple[str, float, str]]:
    """The goal in the claim's own unit, and the limit."""
    marks = []
    base = {**claim.peers, claim.limit_name: claim.limit or 0.0}.get(claim.against)
    if base:
        marks.append(("goal", base * claim.goal, GOAL))
    if claim.limit:
        marks.append((f"limit: {claim.limit_name}", claim.limit, LIMIT))
    return marks


def _bar(row: int, name: str, value: float, *, top: float, colour: str) -> list[str]:
    y = TOP + row * (BAR + GAP)
    wide = max(1.0, value / top * (WIDTH - LEFT - RIGHT))
    return [
        _text(LEFT - 8, y + 15, name, anchor="end"),
        f'<rect x="{LEFT}" y="{y}" width="{wide:.1f}" height="{BAR}" rx="3" fill="{colour}"/>',
        _text(LEFT + wide + 6, y + 15, f"{value:.3g}" if value < 1000 else f"{value:.0f}"),
    ]


def _line(value: float, label: str, *, top: float, height: int, colour: str) -> list[str]:
    x = LEFT + value / top * (WIDTH - LEFT - RIGHT)
    bottom = height - FOOT
    anchor = "end" if x > WIDTH - 160 else "middle"
    y = bottom + (14 if label == "goal" else 28)
    return [
        f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="{colour}" stroke-width="1.5" '
        'stroke-dasharray="4 3"/>',
        _text(x, y, label, anchor=anchor, colour=colour, size=11),
    ]


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", colour: str = INK, size: int = 13, weight: str = "400"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )

"""Line and bar plots as inline SVG; colours come from the page's style, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH = 1020
COLOURS = 6


class Series(NamedTuple):
    """Points of one line: (x, y, label). ``line`` joins them."""

    name: str
    points: Sequence[tuple[float, float, str]]
    line: bool = True


class Axis:
    """Values to pixels, with round ticks."""

    def __init__(self, values: Sequence[float], start: float, stop: float, log: bool, zero: bool):
        low, high = min(values), max(values)
        if log:
            low, high = math.log10(low), math.log10(high)
        zero = zero and not log and low < 0.4 * high  # a plot of values that are all large need not begin at 0
        if zero:
            low = min(low, 0.0)
        pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        self.low, self.high = (low if zero else low - pad), high + pad
        self.start, self.stop, self.log = start, stop, log

    def __call__(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            span = self.high - self.low
            steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if span < 0.8 else (1, 2, 5) if span < 2.5 else (1, 3) if span < 4 else (1,)
            found = [m * 10.0**d for d in decades for m in steps]
            return [v for v in found if self.low <= math.log10(v) <= self.high]
        rough = (self.high - self.low) / 7
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A short number for a tick: 0.05, 12, 3e-05."""
    return "0" if abs(value) < 1e-12 else f"{value:.3g}"


def line_plot(series: Sequence[Series], x_label: str, y_label: str, *, log_y: bool = False, height: int = 430) -> str:
    """Lines through labelled points; at most `COLOURS` series have a colour of their own. '' if there are no points."""
    series = [s._replace(points=[p for p in sorted(s.points) if math.isfinite(p[0]) and math.isfinite(p[1])
                                 and (p[1] > 0 or not log_y)]) for s in series]
    series = [s for s in series if s.points]
    if not series:
        return ""
    left, right, top, bottom = 66, WIDTH - 120, 16, height - 50
    every = [p for s in series for p in s.points]
    x = Axis([p[0] for p in every], left, right, False, True)
    y = Axis([p[1] for p in every], bottom, top, log_y, False)
    out = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(y_label)} over {escape(x_label)}">']
    for tick in y.ticks():
        at = y(tick)
        out.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
                   f'<text x="{left - 10}" y="{at + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in x.ticks():
        at = x(tick)
        out.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}"/>'
                   f'<text x="{at:.1f}" y="{bottom + 20}" text-anchor="middle">{number(tick)}</text>')
    out.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
               f'<text x="{(left + right) / 2:.0f}" y="{height - 8}" text-anchor="middle">{escape(x_label)}</text>'
               f'<text transform="translate(16 {(top + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
    spots, wanted = [], []
    for i, s in enumerate(series):
        colour = f"var(--c{i})" if i < COLOURS else "var(--rest)"
        if s.line and len(s.points) > 1:
            path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py, _ in s.points)
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>')
        for px, py, label in s.points:
            cx, cy = x(px), y(py)
            spots.append((cx - 7, cy - 6, cx + 7, cy + 6))
            out.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="5" fill="{colour}" stroke="var(--card)" stroke-width="2">'
                       f"<title>{escape(label)}: {number(px)}, {number(py)}</title></circle>")
            if label:
                wanted.append((cx, cy, label))
    out += [*_labels(wanted, spots, (left, top, WIDTH, bottom)), "</svg>"]
    return "".join(out) + (_legend([s.name for s in series]) if len(series) > 1 else "")


def _labels(wanted, taken, area) -> list[str]:
    """Each label beside its point where nothing else stands; those that find no place are left to the tooltip."""
    left, top, right, bottom = area
    out: list[str] = []
    for i, (cx, cy, label) in enumerate(wanted):
        if sum(abs(cx - x) + abs(cy - y) < 10 for x, y, _ in wanted[:i]) > 1:
            continue  # a heap of points: two labels say where it is
        short = label if len(label) <= 34 else label[:33] + "…"
        w = 6.5 * len(short) + 2
        for x0, y0 in ((cx + 9, cy - 7), (cx + 7, cy - 20), (cx + 7, cy + 6), (cx - 9 - w, cy + 3), (cx - 9 - w, cy - 7),
                       (cx - w / 2, cy - 24), (cx - w / 2, cy + 9), (cx + 12, cy - 33), (cx - 12 - w, cy + 18)):
            box = (x0, y0, x0 + w, y0 + 14)
            inside = box[0] >= left and box[1] >= top - 8 and box[2] <= right and box[3] <= bottom
            if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                taken.append(box)
                out.append(f'<text class="strong" x="{x0:.1f}" y="{y0 + 11:.1f}" font-size="12">{escape(short)}</text>')
                break
    return out


def bar_plot(bars: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], *, unit: str = "", text=number) -> str:
    """Horizontal bars, one a (label, values); the values stand one after the other, ``names`` says what each is.

    ``text`` writes the number at the end of a bar. '' if there are no bars.
    """
    totals = [sum(v for v in values if math.isfinite(v)) for _, values in bars]
    if not bars:
        return ""
    widest = max(len(_short(label)) for label, _ in bars)
    left, right, row = 24 + 6.9 * widest, WIDTH - 110, 24
    most = max(totals) or 1.0
    height = row * len(bars) + 12
    out = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(unit or "bars")}">',
           f'<line class="axis" x1="{left:.0f}" x2="{left:.0f}" y1="0" y2="{height - 8}"/>']
    for i, ((label, values), total) in enumerate(zip(bars, totals, strict=True)):
        at, mid = left, i * row + 16
        out.append(f'<text class="strong" x="{left - 10:.0f}" y="{mid + 2}" text-anchor="end">{escape(_short(label))}'
                   f"<title>{escape(label)}</title></text>")
        for j, value in enumerate(values):
            if math.isfinite(value) and value > 0:
                w = value / most * (right - left)
                end = " rx=\"2\"" if w > 4 else ""
                colour = f"var(--c{j})" if j < COLOURS else "var(--rest)"
                out.append(f'<rect x="{at:.1f}" y="{mid - 9}" width="{max(w - 1, 0.6):.1f}" height="15"{end} fill="{colour}">'
                           f"<title>{escape(label)}: {escape(names[j])} {escape(text(value))} {escape(unit)}</title></rect>")
                at += w
        out.append(f'<text x="{at + 8:.1f}" y="{mid + 2}">{escape(text(total))} {escape(unit)}</text>')
    return "".join(out) + "</svg>" + (_legend(names) if len(names) > 1 else "")


def _short(label: str) -> str:
    return label if len(label) <= 44 else label[:18] + "…" + label[-25:]


def _legend(names: Sequence[str]) -> str:
    marks = (f'<span><i style="background:{f"var(--c{i})" if i < COLOURS else "var(--rest)"}"></i>{escape(name)}</span>'
             for i, name in enumerate(names))
    return f'<div class="legend">{"".join(marks)}</div>'

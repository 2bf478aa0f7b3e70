"""SVG by hand: bars beside each other, and lines over steps. Pure: numbers in, text out. Light background, one colour a
peer in all plots, every bar with its number, a whisker from the lowest to the highest round."""

import math
from xml.sax.saxutils import escape

COLOURS = {
    "hotrow": "#c2410c",
    "before": "#fdba74",
    "epoll": "#475569",
    "libpq": "#475569",
    "may": "#7c3aed",
    "nginx": "#15803d",
    "axum": "#2563eb",
    "redis": "#b91c1c",
    "redis-aof": "#b91c1c",
    "webdis": "#db2777",
    "webdis-aof": "#db2777",
    "pgbench": "#0e7490",
}
WIDTH = 760
FONT = "font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\""


def number(value):
    """Three figures that count, and thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _text(x, y, text, size=12, anchor="start", colour="#1e293b", weight="normal"):
    look = f'font-size="{size}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(str(text))}</text>'


def _frame(height, title, unit, body):
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'{FONT} role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(20, 28, title, 16, weight="600"),
        _text(20, 47, unit, 12, colour="#64748b"),
    ]
    return "\n".join([*head, *body, "</svg>"]) + "\n"


def _ticks(high, count=5):
    """Round numbers from 0 to a little over `high`."""
    raw = high / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    return [step * i for i in range(math.ceil(high / step) + 1)]


def bars(title, unit, groups):
    """`groups`: (heading, [(peer, value, low, high)]); a group's bars are beside each other."""
    top, left, right, thick, gap = 66, 110, 90, 18, 24
    highest = max(high for _, rows in groups for _, _, _, high in rows)
    ticks = _ticks(highest)
    scale = (WIDTH - left - right) / ticks[-1]
    body, y = [], top
    for heading, rows in groups:
        if heading:
            body.append(_text(20, y + 12, heading, 12, weight="600"))
            y += 20
        for peer, value, low, high in rows:
            middle, end = y + thick / 2, left + value * scale
            weight = "600" if peer == "hotrow" else "normal"
            body += [
                _text(left - 8, middle + 4, peer, 12, "end", weight=weight),
                f'<rect x="{left}" y="{y}" width="{max(end - left, 1):.1f}" height="{thick - 3}" rx="2" '
                f'fill="{COLOURS[peer]}"/>',
                f'<path d="M{left + low * scale:.1f} {middle - 1.5}H{left + high * scale:.1f}" stroke="#0f172a"/>',
                _text(max(end, left + high * scale) + 6, middle + 3, number(value), 11, weight=weight),
            ]
            y += thick
        y += gap
    y -= gap - 8
    grid = [
        f'<path d="M{left + tick * scale:.1f} {top - 6}V{y}" stroke="#e2e8f0"/>'
        + _text(left + tick * scale, y + 15, number(tick) if tick else "0", 11, "middle", "#64748b")
        for tick in ticks
    ]
    return _frame(y + 26, title, unit, grid + body)


def lines(title, unit, steps, series, logarithmic=False):
    """`steps`: labels of the x axis; `series`: (peer, [value or None for each step])."""
    top, left, right, height = 66, 84, 120, 360
    values = [value for _, row in series for value in row if value]
    if logarithmic:
        first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        ticks = [10.0**power for power in range(first, max(last, first + 1) + 1)]
        share = lambda value: (math.log10(value) - first) / (len(ticks) - 1)  # noqa: E731
    else:
        ticks = _ticks(max(values))
        share = lambda value: value / ticks[-1]  # noqa: E731
    bottom = height - 46
    across = [left + 20 + (WIDTH - left - right - 40) * i / max(len(steps) - 1, 1) for i in range(len(steps))]
    place = lambda value: bottom - share(value) * (bottom - top)  # noqa: E731
    body = []
    for tick in ticks:
        y = place(tick) if tick else bottom
        body.append(f'<path d="M{left} {y:.1f}H{WIDTH - right}" stroke="#e2e8f0"/>')
        body.append(_text(left - 8, y + 4, number(tick) if tick else "0", 11, "end", "#64748b"))
    body += [_text(x, bottom + 18, step, 11, "middle", "#64748b") for x, step in zip(across, steps)]
    labels = []
    for peer, row in series:
        points = [(x, place(value)) for x, value in zip(across, row) if value]
        if not points:
            continue
        colour, wide = COLOURS[peer], 3 if peer == "hotrow" else 1.6
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        body.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{wide}"/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{wide + 0.8}" fill="{colour}"/>' for x, y in points]
        labels.append([points[-1][1], peer, colour])
    # Names at the ends of their lines, and not on one another: moved down first, and then up from the bottom.
    labels.sort()
    for above, label in zip(labels, labels[1:]):
        label[0] = max(label[0], above[0] + 15)
    limit = bottom
    for label in reversed(labels):
        label[0] = min(label[0], limit)
        limit = label[0] - 15
    for y, peer, colour in labels:
        weight = "600" if peer == "hotrow" else "normal"
        body.append(_text(WIDTH - right + 10, y + 4, peer, 12, colour=colour, weight=weight))
    return _frame(height, title, unit, body)

"""The picture of bench.scan: scans/s and p99 of everybody, as SVG."""

from __future__ import annotations

from html import escape

from bench.scan_contestants import OURS
from bench.worker import Numbers

WIDTH, NAMES, ROW, BAR = 760, 190, 24, 15
TOP = 62
FONT = 'font-family="system-ui, sans-serif" font-size="12"'


def svg(outcome: dict[str, Numbers], clients: int) -> str:
    """Draw two columns of bars: scans a second, longer is better, and p99, shorter is better."""
    found = {name: numbers[str(clients)] for name, numbers in outcome.items() if str(clients) in numbers}
    height = TOP + ROW * len(found) + 12
    room = (WIDTH - NAMES) // 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="15" font-weight="bold">{clients:,} clients, two processes, real codes</text>',
    ]
    columns = (("scans_per_s", "scans/s, more is better"), ("p99_ms", "p99 in ms, less is better"))
    for column, (key, title) in enumerate(columns):
        left = NAMES + column * room
        most = max((numbers[key] for numbers in found.values()), default=1) or 1
        parts.append(f'<text x="{left}" y="{TOP - 12}" fill="#555">{title}</text>')
        for row, (name, numbers) in enumerate(found.items()):
            y = TOP + ROW * row
            length = max(numbers[key] / most * (room - 70), 1)
            colour = "#0a7d5a" if name == OURS else "#9aa5b1"
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.0f}" height="{BAR}" fill="{colour}"/>')
            words = f"{numbers[key]:,.0f}" + (" *" if numbers.get("errors") else "")
            parts.append(f'<text x="{left + length + 5:.0f}" y="{y + 12}">{words}</text>')
            if not column:
                weight = ' font-weight="bold"' if name == OURS else ""
                parts.append(f'<text x="12" y="{y + 12}"{weight}>{escape(name)}</text>')
    if any(numbers.get("errors") for numbers in found.values()):
        note = "* with errors among the answers"
        parts.append(f'<text x="{WIDTH - 12}" y="24" text-anchor="end" fill="#555">{note}</text>')
    return "\n".join([*parts, "</svg>", ""])

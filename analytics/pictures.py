"""Pictures of the statistics, as SVG. Pure: rows in, markup out; colours are classes, for pages allow no inline style.

A picture has no viewBox: places along it are per cent and letters are pixels, so it is as readable on a phone as on a desk.
Each says in its label what it is about in one sentence; the numbers themselves are in a table beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from analytics.buckets import Bucket
from analytics.rows import Cell, Span

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PLOT_PX, LINE_PX = 160, 18
ROW_PX = 22
COLUMNS = 26  # of the heatmap: two for the name of the day
_LENGTHS = {Bucket.MINUTE: "minute", Bucket.QUARTER: "15 minutes", Bucket.HOUR: "hour", Bucket.DAY: "day"}
_NOTHING = SafeString("")


def span_names(starts: Sequence[datetime], bucket: Bucket, zone: ZoneInfo) -> list[str]:
    """Name spans by the clock of the zone; where that is changed between them, each says which it is."""
    local = [start.astimezone(zone) for start in starts]
    form = "%a %d %b %Y" if bucket == Bucket.DAY else "%a %d %b, %H:%M"
    if bucket != Bucket.DAY and len({start.utcoffset() for start in local}) > 1:
        form += " %Z"
    return [start.strftime(form) for start in local]


def timeline(spans: Sequence[Span], names: Sequence[str], bucket: Bucket) -> SafeString:
    """Draw a bar for each span: entries, and what was refused on top of them."""
    highest = max((span.entries + span.refused for span in spans), default=0)
    if not highest:
        return _NOTHING
    wide = 100 / len(spans)
    bars = format_html_join(
        "\n",
        "<g><title>{}: {} in, {} refused</title>{}{}</g>",
        (
            (name, f"{span.entries:,}", f"{span.refused:,}", *_stack(span, place * wide, wide, highest))
            for place, (name, span) in enumerate(zip(names, spans, strict=True))
            if span.entries or span.refused
        ),
    )
    busiest = max(range(len(spans)), key=lambda place: spans[place].entries)
    gist = (
        f"Scans by {_LENGTHS[bucket]}, {names[0]} to {names[-1]}: {sum(span.entries for span in spans):,} in, "
        f"{sum(span.refused for span in spans):,} refused"
    )
    if most := spans[busiest].entries:
        gist += f"; most came in at {names[busiest]}: {most:,}"
    return format_html(
        '<svg class="picture" width="100%" height="{height}" role="img" aria-label="{gist}">\n'
        '<text y="12">{highest}</text>\n<line x2="100%" y1="{top}" y2="{top}"/>\n'
        '<svg y="{top}" width="100%" height="{plot}">\n{bars}\n</svg>\n'
        '<line x2="100%" y1="{bottom}" y2="{bottom}"/>\n'
        '<text y="{below}">{first}</text>\n<text class="middle" x="{half}%" y="{below}">{middle}</text>\n'
        '<text x="100%" y="{below}" text-anchor="end">{last}</text>\n</svg>',
        height=LINE_PX + PLOT_PX + LINE_PX,
        gist=f"{gist}.",
        highest=f"{highest:,}",
        top=LINE_PX,
        plot=PLOT_PX,
        bars=bars,
        bottom=LINE_PX + PLOT_PX,
        below=LINE_PX + PLOT_PX + 14,
        first=names[0],
        half=f"{len(names) // 2 * wide:.2f}",
        middle=names[len(names) // 2] if len(names) > 2 else "",
        last=names[-1] if len(names) > 1 else "",
    )


def heatmap(cells: Sequence[Cell]) -> SafeString:
    """Draw the hours of a week, the darker the more came in; cells are 168, Monday's first."""
    busiest = max(cells, key=lambda cell: cell.entries, default=None)
    if busiest is None or not busiest.entries:
        return _NOTHING
    wide = 100 / COLUMNS
    days = format_html_join(
        "\n",
        '<text x="0" y="{}">{}</text>',
        ((place * ROW_PX + 15, day[:3]) for place, day in enumerate(DAYS)),
    )
    squares = format_html_join(
        "\n",
        '<rect x="{}%" y="{}" width="{}%" height="{}" class="{}" fill-opacity="{}">'
        "<title>{}, {} to {}: {} in</title></rect>",
        (
            (
                f"{(cell.hour + 2) * wide:.2f}",
                (cell.weekday - 1) * ROW_PX + 1,
                f"{wide * 0.92:.2f}",
                ROW_PX - 2,
                "entries" if cell.entries else "empty",
                # The weakest is still seen beside the empty ones.
                f"{0.2 + 0.8 * cell.entries / busiest.entries:.2f}" if cell.entries else "1",
                DAYS[cell.weekday - 1],
                cell.hour,
                cell.hour + 1,
                f"{cell.entries:,}",
            )
            for cell in cells
        ),
    )
    hours = format_html_join(
        "\n",
        '<text x="{}%" y="{}">{}</text>',
        ((f"{(hour + 2) * wide:.2f}", len(DAYS) * ROW_PX + 14, hour) for hour in range(0, 24, 3)),
    )
    gist = (
        f"Entries by hour of the week: most on {DAYS[busiest.weekday - 1]} from {busiest.hour} to {busiest.hour + 1}, "
        f"{busiest.entries:,} of {sum(cell.entries for cell in cells):,}."
    )
    return format_html(
        '<svg class="picture" width="100%" height="{}" role="img" aria-label="{}">\n{}\n{}\n{}\n</svg>',
        len(DAYS) * ROW_PX + LINE_PX,
        gist,
        days,
        squares,
        hours,
    )


def bar(number: float, *, most: float, of: float) -> SafeString:
    """Draw one number beside others, the greatest of which is `most`; its label is the share of their sum."""
    share = f"{number / of:.0%} of all" if of else "none"
    return format_html(
        '<svg class="bar" width="100%" height="12" role="img" aria-label="{}"><title>{}</title>'
        '<rect class="track" width="100%" height="12"/><rect class="length" width="{}%" height="12"/></svg>',
        share,
        share,
        f"{100 * number / most if most else 0:.2f}",
    )


def _stack(span: Span, x: float, wide: float, highest: int) -> tuple[SafeString, SafeString]:
    """Draw entries from the bottom on, and what was refused above them."""
    entries, refused = 100 * span.entries / highest, 100 * span.refused / highest

    def part(kind: str, y: float, high: float) -> SafeString:
        if not high:
            return _NOTHING
        return format_html(
            '<rect x="{}%" y="{}%" width="{}%" height="{}%" class="{}"/>',
            *(f"{number:.2f}" for number in (x, y, wide * 0.85, high)),
            kind,
        )

    return part("entries", 100 - entries, entries), part("refused", 100 - entries - refused, refused)

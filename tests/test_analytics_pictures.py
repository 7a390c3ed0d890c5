"""The pictures: what they show, and that they are read as well as seen."""

import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest

from analytics import pictures
from analytics.buckets import Bucket
from analytics.rows import Cell, Span

BERLIN = ZoneInfo("Europe/Berlin")
START = datetime(2026, 6, 12, 19, 30, tzinfo=UTC)


def spans(*counts, step_min=15):
    return [
        Span(START + place * timedelta(minutes=step_min), entries, 0, entries, refused)
        for place, (entries, refused) in enumerate(counts)
    ]


def week(**entries):
    """Cells of a week; `fri21=7` is Friday from 21 to 22."""
    return [
        Cell(weekday, hour, entries.get(f"{pictures.DAYS[weekday - 1][:3].lower()}{hour}", 0), 0, 0)
        for weekday in range(1, 8)
        for hour in range(24)
    ]


def drawn(picture):
    """Parse a picture, which has to be well-formed, named, and without anything that the pages' policy forbids."""
    root = ElementTree.fromstring(picture)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert not re.search(r"\bstyle=|<script|<style|\bon\w+=|href", picture)
    return root


def rects(root, kind):
    return [rect for rect in root.iter("rect") if rect.get("class") == kind]


def test_a_timeline_is_told_in_one_sentence():
    found = spans((3, 0), (1200, 100), (0, 0))
    names = pictures.span_names([span.since for span in found], Bucket.QUARTER, BERLIN)

    root = drawn(pictures.timeline(found, names, Bucket.QUARTER))

    assert root.get("aria-label") == (
        "Scans by 15 minutes, Fri 12 Jun, 21:30 to Fri 12 Jun, 22:00: 1,203 in, 100 refused; "
        "most came in at Fri 12 Jun, 21:45: 1,200."
    )
    assert [title.text for title in root.iter("title")] == [
        "Fri 12 Jun, 21:30: 3 in, 0 refused",
        "Fri 12 Jun, 21:45: 1,200 in, 100 refused",
    ]


def test_what_was_refused_stands_on_what_came_in_and_the_highest_fills_the_plot():
    root = drawn(pictures.timeline(spans((3, 1), (1, 0)), ["a", "b"], Bucket.HOUR))

    bars = [
        (rect.get("class"), rect.get("x"), rect.get("y"), rect.get("height")) for rect in root.iter("rect")
    ]
    assert bars == [
        ("entries", "0.00%", "25.00%", "75.00%"),
        ("refused", "0.00%", "0.00%", "25.00%"),
        ("entries", "50.00%", "75.00%", "25.00%"),
    ]


@pytest.mark.parametrize("found", [[], spans((0, 0), (0, 0))])
def test_of_nothing_there_is_no_timeline(found):
    assert pictures.timeline(found, ["a"] * len(found), Bucket.DAY) == ""


@pytest.mark.parametrize(
    ("names", "written"),
    [(["a"], ["a"]), (["a", "b"], ["a", "b"]), (["a", "b", "c", "d"], ["a", "c", "d"])],
)
def test_the_first_the_middle_and_the_last_span_are_named(names, written):
    root = drawn(pictures.timeline(spans(*[(1, 0)] * len(names)), names, Bucket.DAY))

    assert [text.text for text in root.iter("text") if text.text] == ["1", *written]


def test_an_hour_that_comes_twice_says_which_it_is():
    starts = [datetime(2026, 10, 24, 23, tzinfo=UTC) + hour * timedelta(hours=1) for hour in range(4)]

    assert pictures.span_names(starts, Bucket.HOUR, BERLIN) == [
        "Sun 25 Oct, 01:00 CEST",
        "Sun 25 Oct, 02:00 CEST",
        "Sun 25 Oct, 02:00 CET",
        "Sun 25 Oct, 03:00 CET",
    ]
    assert pictures.span_names(starts[:1], Bucket.DAY, BERLIN) == ["Sun 25 Oct 2026"]


def test_a_heatmap_has_every_hour_and_names_the_busiest():
    root = drawn(pictures.heatmap(week(fri21=6, fri22=3, mon0=1)))

    shades = [(rect.find("title").text, rect.get("fill-opacity")) for rect in rects(root, "entries")]
    assert root.get("aria-label") == "Entries by hour of the week: most on Friday from 21 to 22, 6 of 10."
    assert shades == [
        ("Monday, 0 to 1: 1 in", "0.33"),
        ("Friday, 21 to 22: 6 in", "1.00"),
        ("Friday, 22 to 23: 3 in", "0.60"),
    ]
    assert len(rects(root, "empty")) == 168 - 3


@pytest.mark.parametrize("cells", [[], week()])
def test_of_an_empty_week_there_is_no_heatmap(cells):
    assert pictures.heatmap(cells) == ""


@pytest.mark.parametrize(
    ("number", "most", "of", "label", "width"),
    [(3, 4, 12, "25% of all", "75.00%"), (0, 0, 0, "none", "0.00%"), (0, 4, 12, "0% of all", "0.00%")],
)
def test_a_bar_is_as_long_as_its_number_is_beside_the_greatest(number, most, of, label, width):
    root = drawn(pictures.bar(number, most=most, of=of))

    assert root.get("aria-label") == label
    assert [rect.get("width") for rect in rects(root, "length")] == [width]


def test_words_are_text_and_never_markup():
    picture = pictures.timeline(spans((1, 0)), ['<script>"&'], Bucket.DAY)

    assert '<script>"&' in drawn(picture).get("aria-label")

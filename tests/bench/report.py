"""Rows of figures: how they are summed up, laid out as a table and written as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

HEADINGS = ("figure", "median", "min..max", "compared with", "ratio", "original", "")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: its samples, those of its comparison, and how both were taken.

    `original` is what the original Node.js program needed for the same, as text; measured at another time.
    """

    name: str
    unit: str
    values: Sequence[float]
    how: str
    against: str = ""
    compared: Sequence[float] = field(default=())
    original: str = ""

    @property
    def ratio(self) -> float | None:
        """Return the ratio of the medians, or None where there is nothing to divide by."""
        if not self.compared or not self.values:
            return None
        below = statistics.median(self.compared)
        return statistics.median(self.values) / below if below else None


def amount(value: float, unit: str) -> str:
    """Render a value with three significant digits and its unit."""
    size = abs(value)
    if unit == "" or size >= 1000:
        text = f"{value:,.0f}"
    elif size >= 100:
        text = f"{value:.0f}"
    elif size >= 10:
        text = f"{value:.1f}"
    else:
        text = f"{value:.2f}"
    return f"{text} {unit}" if unit else text


def spread(values: Sequence[float], unit: str) -> str:
    """Render the smallest and the largest value; nothing where there is a single one."""
    if len(values) < 2:
        return ""
    low, high = (amount(value, unit).removesuffix(f" {unit}") for value in (min(values), max(values)))
    return f"{low}..{high}"


def as_cells(row: Row, note: int) -> tuple[str, ...]:
    """Return the row's columns, `note` being the number of its description under the table."""
    median = amount(statistics.median(row.values), row.unit) if row.values else "-"
    against = row.against
    if row.compared:
        against = f"{row.against} {amount(statistics.median(row.compared), row.unit)}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return (row.name, median, spread(row.values, row.unit), against, ratio, row.original or "-", f"[{note}]")


def render(title: str, rows: Sequence[Row]) -> str:
    """Render one table with its title and, below it, how each figure was measured."""
    notes = list(dict.fromkeys(row.how for row in rows))
    cells = [HEADINGS, *(as_cells(row, notes.index(row.how) + 1) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = [title, *("  " + lay_out(line, widths) for line in cells)]
    lines.insert(2, "  " + "  ".join("-" * width for width in widths if width))
    lines += [f"  [{number}] {text}" for number, text in enumerate(notes, 1)]
    return "\n".join(lines)


def lay_out(line: Sequence[str], widths: Sequence[int]) -> str:
    """Align one line: names to the left, numbers to the right."""
    to_the_right = (1, 2, 4)
    parts = [
        text.rjust(width) if column in to_the_right else text.ljust(width)
        for column, (text, width) in enumerate(zip(line, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()


def as_json(group: str, rows: Iterable[Row]) -> list[dict[str, object]]:
    """Return the rows as plain JSON values."""
    return [
        {
            "group": group,
            "name": row.name,
            "unit": row.unit,
            "median": statistics.median(row.values) if row.values else None,
            "values": list(row.values),
            "against": row.against,
            "compared": list(row.compared),
            "ratio": row.ratio,
            "original": row.original,
            "how": row.how,
        }
        for row in rows
    ]

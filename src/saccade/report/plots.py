"""The charts of a report: rows of plain numbers in, inline SVG out.

Axes and text are drawn in ``currentColor`` and variants in CSS variables, so that one SVG suits a white page and a dark
one. Every layout is fixed in pixels: no text is measured with a font that the reader may not have.
"""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt

Rows = list[dict[str, Any]]

# Narrow enough to be read unscaled on a telephone; names stand above their row, not beside it.
WIDTH, ROW_HEIGHT = 340, 40
SIDE = 6
MARK = 20
BELOW = 9  # how far a row's marks stand below its middle, and its words above
PANEL_WIDTH, PANEL_HEIGHT = 240, 180
INK, PAPER = "currentColor", "var(--paper)"
# Beyond this, more points of a learning curve would only make the file bigger.
MOST_EPOCHS = 100


def difference_chart(rows: Rows, *, margin: float, label: str) -> str:
    """Points and intervals in percentage points.

    Rows: name, said (the words at the right), mean, low, high (null without an interval), colour, shape.
    """
    import altair as alt

    seen = [row[key] for row in rows for key in ("mean", "low", "high") if row[key] is not None]
    x = alt.X("mean:Q").scale(domain=padded([*seen, -margin, margin]), nice=False, zero=False)
    # The expression holds no text of users'.
    axis = {"tickCount": 5, "format": "~f", "labelExpr": "datum.value > 0 ? '+' + datum.label : datum.label"}
    x = x.title("difference to the baseline, points").axis(**axis)
    y = _rows_axis(rows)
    base = alt.Chart(alt.InlineData(values=rows))
    # The band and the zero line stop between the rows, where the words are.
    within = [{"name": row["name"], "from": -margin, "to": margin, "zero": 0} for row in rows]
    still = alt.Chart(alt.InlineData(values=within))
    band = still.mark_rule(color=INK, opacity=0.12, strokeWidth=MARK, yOffset=BELOW)
    zero = still.mark_tick(color=INK, opacity=0.6, thickness=1, size=MARK, yOffset=BELOW)
    with_interval = [row for row in rows if row["low"] is not None and row["high"] is not None]
    lines = alt.Chart(alt.InlineData(values=with_interval)).mark_rule(color=INK, strokeWidth=2, yOffset=BELOW)
    dots = base.mark_point(filled=True, size=75, opacity=1, stroke=PAPER, strokeWidth=0.75, yOffset=BELOW)
    layers = alt.layer(
        band.encode(alt.X("from:Q"), alt.X2("to:Q"), y),
        zero.encode(alt.X("zero:Q"), y),
        lines.encode(alt.X("low:Q"), alt.X2("high:Q"), y),
        dots.encode(x, y, _raw(alt.Color("colour:N")), _raw(alt.Shape("shape:N"))),
        *_words(rows, y),
    )
    return _row_svg(layers, len(rows), label)


def seeds_chart(rows: Rows, trials: Rows, *, label: str) -> str:
    """Accuracy of every trial in per cent, the trials of one seed joined.

    Rows: name, said, mean. Trials: name, order (of the row), seed, mean (their accuracy), colour, shape.
    """
    import altair as alt

    x = alt.X("mean:Q").scale(domain=padded([trial["mean"] for trial in trials]), nice=False, zero=False)
    x = x.title("accuracy, %").axis(tickCount=5, format="~f")
    y = _rows_axis(rows)
    every = alt.Chart(alt.InlineData(values=trials))
    means = alt.Chart(alt.InlineData(values=rows))
    look = _raw(alt.Color("colour:N")), _raw(alt.Shape("shape:N"))
    layers = alt.layer(
        every.mark_line(color=INK, opacity=0.3, strokeWidth=1, yOffset=BELOW).encode(
            x, y, alt.Detail("seed:N"), alt.Order("order:Q")
        ),
        means.mark_tick(color=INK, thickness=2, size=MARK, opacity=1, yOffset=BELOW).encode(x, y),
        every.mark_point(filled=True, size=45, opacity=1, stroke=PAPER, strokeWidth=0.75, yOffset=BELOW).encode(
            x, y, *look
        ),
        *_words(rows, y),
    )
    return _row_svg(layers, len(rows), label)


def cost_chart(rows: Rows, *, title: str, log: bool, accuracies: tuple[float, float], label: str) -> str:
    """Mean accuracy against one cost, with the range over seeds. Rows: cost, accuracy, low, high, colour, shape."""
    import altair as alt

    costs = [row["cost"] for row in rows]
    if log:
        low, high = (math.exp(edge) for edge in padded([math.log(c) for c in costs], least=0.2))
    else:
        low, high = padded(costs, least=0.2 * max(costs))
        low = max(low, 0.0)
    x = alt.X("cost:Q").scale(type="log" if log else "linear", domain=[low, high], nice=False, zero=False)
    ticks = log_ticks(low, high) if log else alt.Undefined
    x = x.title(title).axis(format="~s" if log else "~f", values=ticks, tickCount=5)
    y = _accuracy_axis(alt.Y("accuracy:Q"), accuracies)
    base = alt.Chart(alt.InlineData(values=rows))
    front = alt.Chart(
        alt.InlineData(values=[*pareto(rows), {"cost": high, "accuracy": max(r["accuracy"] for r in rows)}])
    )
    layers = alt.layer(
        front.mark_line(interpolate="step-after", color=INK, opacity=0.35, strokeWidth=1).encode(x, y),
        base.mark_rule(strokeWidth=1, opacity=0.7).encode(
            x, _accuracy_axis(alt.Y("low:Q"), accuracies), alt.Y2("high:Q"), _raw(alt.Color("colour:N"))
        ),
        base.mark_point(filled=True, size=75, opacity=1, stroke=PAPER, strokeWidth=0.75).encode(
            x, y, _raw(alt.Color("colour:N")), _raw(alt.Shape("shape:N"))
        ),
    )
    return _panel(layers, label)


def pareto(rows: Rows) -> Rows:
    """The rows that no other beats in cost and accuracy both, from the cheapest to the dearest."""
    front: Rows = []
    for row in sorted(rows, key=lambda row: (row["cost"], -row["accuracy"])):
        if not front or row["accuracy"] > front[-1]["accuracy"]:
            front.append(row)
    return front


def curve_chart(rows: Rows, *, accuracies: tuple[float, float], label: str) -> str:
    """Validation accuracy by epoch: mean and range over seeds of one variant over those of the baseline.

    Rows: who, epoch, mean, low, high, colour, opacity.
    """
    import altair as alt

    epochs = sorted({row["epoch"] for row in rows})
    kept = set(thinned(epochs))
    base = alt.Chart(alt.InlineData(values=[row for row in rows if row["epoch"] in kept]))
    edges = [epochs[0], epochs[-1]] if len(epochs) > 1 else [epochs[0] - 1, epochs[0] + 1]
    x = alt.X("epoch:Q").scale(domain=edges, nice=False, zero=False)
    x = x.title("epoch").axis(values=whole_ticks(epochs[0], epochs[-1]), format="d", grid=False)
    colour, opacity = _raw(alt.Color("colour:N")), _raw(alt.Opacity("opacity:Q"))
    y = _accuracy_axis(alt.Y("mean:Q"), accuracies)
    band = base.mark_area(opacity=0.2).encode(
        x, _accuracy_axis(alt.Y("low:Q"), accuracies), alt.Y2("high:Q"), colour, alt.Detail("who:N")
    )
    line = base.mark_line(strokeWidth=2).encode(x, y, colour, opacity, alt.Detail("who:N"))
    dots = base.mark_point(filled=True, size=22).encode(x, y, colour, opacity)
    return _panel(alt.layer(band, line, dots) if len(epochs) <= 12 else alt.layer(band, line), label)


def padded(values: list[float], *, least: float = 0.1) -> tuple[float, float]:
    """The range of the values with 8 % of room on either side, and never narrower than ``least``."""
    low, high = min(values), max(values)
    room = max(0.08 * (high - low), (least - (high - low)) / 2)
    return low - room, high + room


def log_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from low to high, or as near to that as round numbers come."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [1 + tenth / 10 for tenth in range(90)]
    best: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), range(1, 10), fine[::5], fine[::2], fine):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits if low <= digit * 10.0**decade <= high]
        if len(ticks) > 5 and best:
            break
        best = ticks
        if len(ticks) >= 3:
            break
    return best[:: math.ceil(len(best) / 5)] if best else best


def whole_ticks(first: int, last: int) -> list[int]:
    """At most six whole numbers at round steps, the first among them where all fit."""
    steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    step = next(s for s in steps if (last - first) / s <= 5)
    return list(range(first, last + 1)) if step == 1 else list(range(math.ceil(first / step) * step, last + 1, step))


def thinned(epochs: list[int]) -> list[int]:
    """At most about a hundred of the epochs, evenly spaced, the last one among them."""
    step = math.ceil(len(epochs) / MOST_EPOCHS)
    return sorted({*epochs[::step], epochs[-1]})


def _rows_axis(rows: Rows) -> alt.Y:
    """Users' names go in as data: the scale's domain gives their order, as sorting would make them an expression."""
    import altair as alt

    return alt.Y("name:N").scale(domain=[row["name"] for row in rows]).title(None).axis(None)


def _words(rows: Rows, y: alt.Y) -> list[alt.Chart]:
    """Above the marks of every row its name, and at the right what is said of it."""
    import altair as alt

    words = alt.Chart(alt.InlineData(values=rows))
    style: Any = {"color": INK, "fontSize": 11, "yOffset": -BELOW, "baseline": "middle"}
    width = WIDTH - 2 * SIDE
    name = words.mark_text(align="left", limit=0.54 * width, **style).encode(y, x=alt.value(0), text="name:N")
    said = words.mark_text(align="right", limit=0.5 * width, **style).encode(y, x=alt.value(width), text="said:N")
    return [name, said]


def _accuracy_axis(y: alt.Y, accuracies: tuple[float, float]) -> alt.Y:
    return y.scale(domain=list(accuracies), nice=False, zero=False).title(None).axis(tickCount=4, format="~f")


def _raw(channel: Any) -> Any:
    """The row's own colour or path, not a place in a palette."""
    return channel.scale(None).legend(None)


def _row_svg(layers: alt.LayerChart | alt.FacetChart, rows: int, label: str) -> str:
    return _svg(layers, WIDTH - 2 * SIDE, ROW_HEIGHT * rows, left=SIDE, right=SIDE, label=label)


def _panel(layers: alt.LayerChart | alt.FacetChart, label: str) -> str:
    return _svg(layers, PANEL_WIDTH - 56, PANEL_HEIGHT - 60, left=42, right=14, label=label)


def _svg(layers: alt.LayerChart | alt.FacetChart, width: int, height: int, *, left: int, right: int, label: str) -> str:
    import vl_convert

    chart = layers.properties(width=width, height=height, autosize="none")
    padding: Any = {"left": left, "right": right, "top": 8, "bottom": 46}
    chart = chart.configure(padding=padding, font="sans-serif", aria=False)
    chart = chart.configure_view(stroke=None).configure_axis(
        gridOpacity=0.12, domainOpacity=0.4, tickOpacity=0.4,
        labelColor=INK, titleColor=INK, tickColor=INK, domainColor=INK, gridColor=INK,
        labelFontSize=11, titleFontSize=11, titleFontWeight="normal",
    )  # fmt: skip
    # Without a background the page's own shows, light or dark; nothing may be loaded from anywhere.
    specification = chart.to_dict() | {"background": None}
    drawn = vl_convert.vegalite_to_svg(specification, allowed_base_urls=[])
    # The figure's numbers as text for those who do not see it; the width stays, as the size to prefer.
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)

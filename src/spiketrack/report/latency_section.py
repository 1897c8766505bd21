"""Latency section of an evaluation page: what each step of a streaming evaluation cost."""

from __future__ import annotations

import numpy as np

from spiketrack.report.charts import Plot, category
from spiketrack.report.page import figure, note, section, table
from spiketrack.streaming import STATIONS, Latency

_SHARES = np.linspace(0, 1, 201)


def latency_section(latency: Latency) -> str:
    """Percentiles of every station, and the share of the steps that are done by a time."""
    if not len(latency.total):
        return section("Latency", note("No step was run, so there is nothing to measure."))
    spent = {**dict(zip(STATIONS, latency.stations.T, strict=True)), "all stations": latency.total}
    spent["from the end of the slice"] = latency.delay
    rows = []
    for name, seconds in spent.items():
        values = (seconds.mean(), *np.percentile(seconds, (50, 95, 99)), seconds.max())
        rows.append([name, *(f"{1e3 * value:.2f}" for value in values)])
    factor = latency.real_time_factor
    words = (
        f"{len(latency.total):,} steps of {latency.slice_us / 1e3:g} ms, one at a time, on {latency.device}: "
        f"{factor:.2f}x real time."
    )
    slow = " The steps pile up: the delay grows with the length of a recording." if factor < 1 else ""
    head = ["milliseconds", "mean", "p50", "p95", "p99", "max"]
    return section("Latency", note(words + slow), table(head, rows, totals=2), _chart(latency))


def _chart(latency: Latency) -> str:
    curves = {"one step": latency.total, "from the end of the slice": latency.delay}
    quantiles = {name: 1e3 * np.quantile(seconds, _SHARES) for name, seconds in curves.items()}
    highest = max(float(values[-1]) for values in quantiles.values())
    plot = Plot((0, max(highest, latency.slice_us / 1e3)), (0, 1), labels=("milliseconds", "share of the steps"))
    plot.x_axis()
    plot.y_axis()
    for i, (name, values) in enumerate(quantiles.items()):
        plot.line(values, _SHARES, category(i), name)
    plot.line(2 * [latency.slice_us / 1e3], [0, 1], "var(--soft)", "length of a step", dashed=True)
    caption = (
        "From the last event of a slice to its tracks. Dashed: the length of a slice, within which a step must stay."
    )
    legend = [(name, category(i)) for i, name in enumerate(quantiles)]
    return figure("Steps done by then", plot.svg("share of the steps over their latency"), caption, legend)

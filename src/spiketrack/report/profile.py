"""Profile page: where a step goes, what bounds it, what would help, and flame views of operations and functions.

Station: after `profiling`. In comes a diagnosis, out go profile.json and profile.html beside the Chrome trace.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from spiketrack.errors import RecordingError
from spiketrack.profiling import MEANING, Diagnosis
from spiketrack.profiling.sampling import StackTime
from spiketrack.profiling.tracing import Node
from spiketrack.replacing import write_whole
from spiketrack.report.charts import CATEGORIES, bars, category
from spiketrack.report.page import facts as fact_list
from spiketrack.report.page import figure, note, page, section, table, tiles

PERCENTILES = (50, 95, 99)
_WIDTH, _ROW, _DEEPEST, _NARROWEST = 1040, 17, 26, 1.2  # pixels, rows
_LETTER = 6.4  # pixels


def write_profile(folder: Path, found: Diagnosis, *, title: str, facts: Mapping[str, Any]) -> Path:
    """Write `profile.json` and `profile.html` into a folder that exists, and return the path of the page.

    Raises RecordingError naming the file that cannot be written.
    """
    values = {"title": title, **profile_values(found), "facts": {name: str(value) for name, value in facts.items()}}
    write_whole(folder / "profile.json", json.dumps(values, indent=1) + "\n", RecordingError)
    write_whole(folder / "profile.html", _page(found, title, facts), RecordingError)
    return folder / "profile.html"


def profile_values(found: Diagnosis) -> dict[str, Any]:
    """All numbers for JSON; times in seconds."""
    measured, verdict = found.measured, found.verdict
    return {
        "kind": found.kind,
        "device": measured.device,
        "steps": len(measured.rows),
        "rate": measured.rate,
        "unit": f"{found.unit}/s",
        "latency": latency(found),
        "bound": verdict.bound,
        "verdict": verdict.sentence,
        "bounds": verdict.bounds,
        "parts": [part._asdict() for part in verdict.parts],
        "once": verdict.once,
        "loading": verdict.loading,
        "layers": found.trace.layers("network" if found.kind == "infer" else "forward"),
        "memory_mb": measured.memory_mb,
        "usage": {**asdict(measured.usage), "gpu": found.trace.gpu},
        "losses": measured.losses,
        "remedies": [{**asdict(remedy), "setting": remedy.setting} for remedy in found.remedies],
        "trials": [
            {
                "remedy": trial.remedy.what,
                "setting": trial.remedy.setting,
                "rate": trial.rate,
                "kept": trial.kept,
                "losses": trial.losses,
                "same_losses": trial.same_losses(measured.losses),
            }
            for trial in found.trials
        ],
        "rate_again": found.again,
    }


def latency(found: Diagnosis) -> dict[str, float]:
    """Seconds of a step: p50, p95, p99."""
    return {f"p{p}": float(np.percentile(found.measured.steps, p)) for p in PERCENTILES}


def part_rows(found: Diagnosis) -> list[list[str]]:
    """One row for each part of the step: what, bound by, ms, share."""
    whole = found.verdict.seconds or 1.0
    return [
        [part.what, part.bound, f"{1e3 * part.seconds:.2f}", f"{part.seconds / whole:.1%}", part.where]
        for part in found.verdict.parts
    ]


def remedy_rows(found: Diagnosis) -> list[list[str]]:
    """One row for each remedy: what, setting, expected gain, effect, why."""
    return [[r.what, r.setting, f"{r.gain:.2f}x", r.effect, r.why] for r in found.remedies]


def trial_rows(found: Diagnosis) -> list[list[str]]:
    """One row for each run: what, rate, against the first, losses, kept."""
    if not found.trials:
        return []
    first = found.measured.rate
    rows = [["as it was", f"{first:.2f}", "1.00x", "-", "-"]]
    for trial in found.trials:
        same = trial.same_losses(found.measured.losses)
        kept = "kept" if trial.kept else "not kept"
        rows.append([f"+ {trial.remedy.setting}", f"{trial.rate:.2f}", f"{trial.rate / first:.2f}x", same, kept])
    if found.again is not None:
        rows.append(["as it was, again", f"{found.again:.2f}", f"{found.again / first:.2f}x", "-", "-"])
    return rows


def usage_facts(found: Diagnosis) -> dict[str, str]:
    """What the run took of the machine, in words."""
    usage = found.measured.usage
    words = {
        "device": found.measured.device,
        "processors": f"{usage.cores:.2f} used by this run, {usage.system:.2f} of them in the kernel; "
        f"{usage.others:.2f} by other programs",
        "fresh pages": f"{usage.faults:,.0f} a step",
        "storage": f"{usage.read_mb:.1f} MB/s read",
    }
    if found.trace.gpu is not None:
        words["accelerator"] = f"busy {found.trace.gpu:.0%} of the traced steps"
    if found.verdict.once:
        words["first reads"] = (
            f"{1e3 * found.verdict.once:.1f} ms a step went into the first read of recordings that stay in memory; "
            "left out, as that ends with the first epoch"
        )
    if usage.others > 0.5:
        words["note"] = "other programs used the processor: rates are lower than on a quiet machine, shares may shift"
    return words


def _page(found: Diagnosis, title: str, facts: Mapping[str, Any]) -> str:
    times, verdict = latency(found), found.verdict
    heads = [
        (verdict.bound, f"bounds {verdict.bounds[verdict.bound]:.0%} of the step"),
        (f"{found.measured.rate:.2f}", f"{found.unit} per second"),
        *((f"{1e3 * value:.1f} ms", f"{name} of a step") for name, value in times.items()),
    ]
    shares = [(bound, [share]) for bound, share in verdict.bounds.items()]
    bounds = figure("What bounds the step", bars(shares, ["share"]), "; ".join(f"{b}: {MEANING[b]}" for b, _ in shares))
    body = [
        tiles(heads),
        section("Verdict", note(verdict.sentence), bounds),
        section("Where a step goes", table(["part", "bound by", "ms", "share", "busiest function"], part_rows(found))),
        section("Remedies", _remedies(found)),
        section("Stations", _stations(found), _loading(found)),
        section("Layers", _layers(found)),
        section(
            "Flame views",
            figure(
                "Operations", flame(found.trace.root), "Traced steps under torch.profiler: stations, layers, calls."
            ),
            figure("Functions", flame(_functions(found.measured.stacks)), "Looks at the Python stacks of all threads."),
        ),
        section("Memory", _memory(found)),
        section("The machine", fact_list({**usage_facts(found), **{k: str(v) for k, v in facts.items()}})),
    ]
    kind = "training" if found.kind == "train" else "inference"
    return page(title, f"{len(found.measured.rows)} steps of {kind}, after a warm-up", body)


def _remedies(found: Diagnosis) -> str:
    if not found.remedies:
        return note("Nothing that this doctor knows would make the step 3 % faster.")
    advice = table(["remedy", "setting", "expected", "effect", "why"], remedy_rows(found), names=2)
    trials = trial_rows(found)
    head = ["tried", f"{found.unit}/s", "rate", "losses", ""]
    return advice + (table(head, trials) if trials else "")


def _stations(found: Diagnosis) -> str:
    rows = []
    for name, seconds in zip(found.measured.stations, found.measured.rows.T, strict=True):
        values = (seconds.mean(), *np.percentile(seconds, PERCENTILES), seconds.max())
        rows.append([name, *(f"{1e3 * value:.2f}" for value in values)])
    steps = found.measured.steps
    values = (steps.mean(), *np.percentile(steps, PERCENTILES), steps.max())
    rows.append(["step", *(f"{1e3 * value:.2f}" for value in values)])
    return table(["milliseconds", "mean", *(f"p{p}" for p in PERCENTILES), "max"], rows, totals=1)


def _loading(found: Diagnosis) -> str:
    if not found.verdict.loading:
        return ""
    rows = [[kind, f"{1e3 * seconds:.2f}"] for kind, seconds in found.verdict.loading.items()]
    return table(["threads that load, while the step runs or waits", "ms a step"], rows)


def _layers(found: Diagnosis) -> str:
    layers = found.trace.layers("network" if found.kind == "infer" else "forward")
    whole = sum(layers.values())
    if not whole:
        return note("No layer was seen.")
    shares = [(name, [seconds / whole]) for name, seconds in layers.items()]
    limit = max(share for _, (share,) in shares)
    return figure("Share of the forward pass", bars(shares, ["share"], limit=limit), "In the order of the network.")


def _memory(found: Diagnosis) -> str:
    measured = found.measured
    rows = [[f"held: {name}", f"{size:,.1f}"] for name, size in measured.memory_mb.items()]
    rows += [[f"process, most during {name}", f"{size:,.0f}"] for name, size in measured.usage.peak_mb.items()]
    rows += [[f"accelerator, most during {name}", f"{size:,.0f}"] for name, size in measured.usage.gpu_peak_mb.items()]
    return table(["memory", "MB"], rows)


def _functions(stacks: Sequence[StackTime]) -> Node:
    """The stacks as a tree: thread, station, functions."""
    root = Node("all threads")
    for stack in stacks:
        node = root
        node.seconds += stack.seconds
        thread = "thread that steps" if stack.main else "other threads"
        for name in (thread, stack.station, *stack.frames):
            node = node.child(name)
            node.seconds += stack.seconds
            node.count += 1
    return root


def flame(root: Node) -> str:
    """Bars as wide as their seconds, what is called below its caller, as SVG; the mouse tells name and time."""
    if not root.seconds:
        return note("Nothing was seen.")
    drawn = list(_bars(root, root, 0.0, 0))
    height = _ROW * (1 + max(depth for *_, depth in drawn))
    parts = []
    for node, x, depth in drawn:
        width = _WIDTH * node.seconds / root.seconds
        tip = f"{node.name}: {1e3 * node.seconds:.2f} ms, {node.seconds / root.seconds:.1%}, {node.count} times"
        colour = category(crc32(node.name.encode()) % CATEGORIES)
        parts.append(
            f'<rect x="{x:.1f}" y="{depth * _ROW}" width="{max(width - 0.6, 0.6):.1f}" height="{_ROW - 1}" rx="2" '
            f'style="fill:{colour};fill-opacity:.45"><title>{escape(tip)}</title></rect>'
        )
        letters = int((width - 8) / _LETTER)
        if letters >= 3:
            name = node.name if len(node.name) <= letters else f"{node.name[: letters - 1]}…"
            parts.append(
                f'<text x="{x + 4:.1f}" y="{depth * _ROW + 12}" style="font-size:11px;fill:var(--ink);'
                f'pointer-events:none">{escape(name)}</text>'
            )
    what = f"flame view of {len(drawn)} bars"
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{what}">{"".join(parts)}</svg>'


def _bars(node: Node, root: Node, x: float, depth: int) -> Iterator[tuple[Node, float, int]]:
    """Node, left edge in pixels and row of every bar that is wide enough to see."""
    yield node, x, depth
    if depth + 1 == _DEEPEST:
        return
    for child in node.children.values():
        width = _WIDTH * child.seconds / root.seconds
        if width >= _NARROWEST:
            yield from _bars(child, root, x, depth + 1)
        x += width

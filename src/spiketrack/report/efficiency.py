"""Efficiency report: a detector runs over recordings, its activity is counted, and becomes numbers, a table and a page.

Station: beside the evaluation; labels are not looked at. What the numbers mean: `spiketrack.metrics.efficiency`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from spiketrack.errors import RecordingError, SettingsError
from spiketrack.metrics.efficiency import ConvLayer, Efficiency, NeuronLayer, Operations, efficiency
from spiketrack.pipeline import Detector
from spiketrack.recordings import Recording
from spiketrack.replacing import make_folder, write_whole
from spiketrack.report.charts import Plot, category, short
from spiketrack.report.page import facts as fact_list
from spiketrack.report.page import figure, page, section, table, tiles
from spiketrack.spiking.activity import recorded


def measure_efficiency(
    detector: Detector,
    recordings: Iterable[tuple[str, Recording]],
    *,
    max_us: int | None = None,
    reset_every: int | None = None,
    on_step: Callable[[int, int | None, str], None] = lambda done, total, name: None,
) -> Efficiency:
    """Run the fused network over recordings (name, recording), each with a fresh state, and count what it does.

    max_us: look at so much of each recording only. reset_every: steps after which the state is forgotten.
    on_step(steps done, None, name) is called after every time step, of which one at a time is in memory. Raises
    SettingsError where no recording has an event.
    """
    fused = detector.fused()
    most = None if max_us is None else max(1, max_us // detector.input.slice_us)
    done = 0
    with recorded(fused.model) as activity:
        for name, recording in recordings:
            for _ in islice(fused.detect(recording, chunk_steps=1, reset_every=reset_every), most):
                done += 1
                on_step(done, None, name)
    if not done:
        raise SettingsError("efficiency: the recordings hold no events, so there is nothing to count")
    return efficiency(activity, fused.model)


def efficiency_values(result: Efficiency) -> dict[str, Any]:
    """All numbers for JSON, with the energies and the rules beside the counts."""
    values = asdict(result)
    values["energy_mj"] = energies(result)
    values.pop("dense_energy_mj")
    return values


def energies(result: Efficiency) -> dict[str, float]:
    """Millijoules per time step by each rule, by its name."""
    return {
        "NeuroBench's operations": result.operations.energy_mj,
        "NeuroBench's operations, integers as binary spikes": result.unrolled.energy_mj,
        "SpikeYOLO's rule": result.energy_mj,
        "dense, multiply-accumulates": result.dense_energy_mj,
    }


def write_efficiency(folder: str | Path, result: Efficiency, *, title: str, facts: Mapping[str, Any]) -> Path:
    """Write `efficiency.json` and `efficiency.html` into a folder and return the path of the page.

    Raises RecordingError naming the file that cannot be written; older files then stay.
    """
    folder = Path(folder)
    make_folder(folder)
    values = {"title": title, **efficiency_values(result), "facts": {name: str(value) for name, value in facts.items()}}
    write_whole(folder / "efficiency.json", json.dumps(values, indent=1, allow_nan=False) + "\n", RecordingError)
    path = folder / "efficiency.html"
    write_whole(path, _page(result, title, facts), RecordingError)
    return path


SYNAPSES = ("convolution", "reads", "not zero", "mean", "dense", "AC", "MAC", "AC unrolled", "SpikeYOLO nJ")
NEURONS = ("neurons of", "D", "neurons", "rate", "not zero", "binary rate", "updated")


def conv_row(layer: ConvLayer) -> list[str]:
    """One row under SYNAPSES."""
    operations, unrolled = layer.operations, layer.unrolled
    return [
        layer.name.removesuffix(".conv"),
        layer.kind,
        f"{layer.active:.2%}",
        f"{layer.mean:.3f}",
        *(short(value) for value in (operations.dense, operations.ac, operations.mac)),
        "-" if unrolled is None else short(unrolled.ac),
        f"{layer.energy_mj * 1e6:,.0f}",
    ]


def neuron_row(layer: NeuronLayer) -> list[str]:
    """One row under NEURONS."""
    shares = (layer.active, layer.binary_rate, layer.updated)
    active, binary, updated = ("-" if share is None else f"{share:.2%}" for share in shares)
    name = layer.name.removesuffix(".neuron")
    return [name, str(layer.levels), short(layer.neurons), f"{layer.rate:.3f}", active, binary, updated]


def summary(result: Efficiency) -> dict[str, str]:
    """What matters most, in words; per time step of one image."""
    foot = result.footprint
    lines = {
        "time steps": f"{result.steps:,}",
        "activation sparsity": f"{result.activation_sparsity:.2%} of outputs are 0 (NeuroBench)"
        + ("" if result.unrolled_sparsity is None else f"; as binary spikes {result.unrolled_sparsity:.2%}"),
        "firing rate": f"{result.rate:.4f} mean output of a neuron and step",
        "operations": _operations(result.operations),
        "as binary spikes": _operations(result.unrolled),
        "dense operations": f"{short(result.macs)} with zero padding, {short(result.operations.dense)} without",
        "membrane updates": f"{short(result.membrane_updates)} of {short(result.neurons)} neurons",
        "footprint": f"{foot.bytes / 1e6:.2f} MB; {foot.connection_sparsity:.2%} of {foot.weights:,} weights are 0",
    }
    for rule, energy in energies(result).items():
        lines[f"energy, {rule}"] = f"{energy:.4f} mJ"
    if result.subset is not None:
        lines["authors' own subset"] = f"{result.subset.active:.2%} of outputs are not 0 ({result.subset.rule})"
    return lines


def _operations(counts: Operations) -> str:
    return f"{short(counts.ac)} AC + {short(counts.mac)} MAC effective"


def _page(result: Efficiency, title: str, facts: Mapping[str, Any]) -> str:
    unrolled = result.unrolled
    heads = [
        (f"{result.activation_sparsity:.1%}", "activation sparsity"),
        (f"{result.rate:.3f}", "firing rate, mean output"),
        (short(unrolled.ac), "additions a step, binary spikes"),
        (short(unrolled.mac), "multiplications a step, first layer"),
        (f"{unrolled.energy_mj:.3f} mJ", "energy a step, NeuroBench's operations"),
        (f"{result.energy_mj:.3f} mJ", "energy a step, SpikeYOLO's rule"),
    ]
    rates = _columns(
        [(f"{n.name}: {n.active:.2%} not zero, mean {n.rate:.3f}", n.active) for n in result.neuron_layers]
    )
    energy = _columns([(f"{c.name}: {c.energy_mj * 1e6:,.0f} nJ", c.energy_mj * 1e6) for c in result.convs], unit="nJ")
    body = [
        tiles(heads),
        section(
            "Where the work is",
            figure("Neurons that send something", rates, "Share of outputs not zero, layer by layer as they run."),
            figure("Energy of the convolutions", energy, "Per time step by SpikeYOLO's rule, 45 nm, without memory."),
        ),
        section("In numbers", fact_list(summary(result))),
        section("Convolutions", table(SYNAPSES, [conv_row(layer) for layer in result.convs], names=2)),
        section("Neurons", table(NEURONS, [neuron_row(layer) for layer in result.neuron_layers])),
        section("What was measured", fact_list(facts)),
    ]
    return page(title, "Sparsity, operations and energy of the fused network, per time step of one image", body)


def _columns(values: list[tuple[str, float]], unit: str = "share") -> str:
    """One column a layer, with the words as its title."""
    highest = max((value for _, value in values), default=0.0)
    plot = Plot((0, len(values)), (0, highest or 1.0), labels=("layer", unit))
    plot.y_axis()
    plot.x_axis(form=lambda value: f"{value:.0f}")
    for i, (words, value) in enumerate(values):
        plot.block((i + 0.1, i + 0.9), (0, value), category(0), words)
    return plot.svg(f"{unit} of {len(values)} layers, at most {highest:.3g}")

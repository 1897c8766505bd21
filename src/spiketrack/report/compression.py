"""Compression report: the forms of one network as a table in JSON and HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiketrack.errors import RecordingError
from spiketrack.replacing import make_folder, write_whole
from spiketrack.report.page import facts as fact_list
from spiketrack.report.page import page, section, table

HEAD = ("form", "file", "MB", "smaller", "parameters", "GMAC", "mJ", "CPU ms", "faster", "mAP", "mAP50", "HOTA")
PARTS = ("form", "part of the file", "bytes")


def compression_row(values: Mapping[str, Any]) -> list[str]:
    """One row under HEAD. values: of `compression_values`."""
    return [
        values["name"],
        values["file"],
        f"{values['bytes'] / 1e6:.2f}",
        f"{values['smaller']:.2f}x",
        f"{values['parameters']:,}",
        f"{values['macs'] / 1e9:.3f}",
        f"{values['energy_mj']:.3f}",
        f"{values['latency_ms']:.1f}",
        f"{values['faster']:.2f}x",
        *(f"{values[name]:.3f}" for name in ("map", "ap50", "hota")),
    ]


def write_compression(folder: Path, values: list[dict[str, Any]], *, title: str, facts: Mapping[str, Any]) -> Path:
    """Write `compression.json` and `compression.html` and return the path of the page.

    Raises RecordingError naming the file that cannot be written; older files then stay.
    """
    make_folder(folder)
    said = {name: str(value) for name, value in facts.items()}
    content = json.dumps({"title": title, "forms": values, "facts": said}, indent=1, allow_nan=False)
    write_whole(folder / "compression.json", content + "\n", RecordingError)
    body = [
        section("Size, speed and accuracy", table(HEAD, [compression_row(row) for row in values], names=2)),
        section("Where the bytes go", table(PARTS, _parts(values), names=2)),
        section("What was measured", fact_list(facts)),
    ]
    path = folder / "compression.html"
    write_whole(path, page(title, "One network in several forms; multiples are of the first row", body), RecordingError)
    return path


def _parts(values: list[dict[str, Any]]) -> list[list[str]]:
    return [[row["name"], part, f"{count:,}"] for row in values for part, count in row["parts"].items()]

"""Evaluation report: an evaluation becomes metrics.json for programs and one page for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spiketrack.errors import RecordingError
from spiketrack.evaluation import EvaluationResult
from spiketrack.history import EpochRecord
from spiketrack.replacing import make_folder, write_whole
from spiketrack.report.breakdown import Breakdown, break_down
from spiketrack.report.detection_sections import detection_section, errors_section, size_section
from spiketrack.report.evaluation_numbers import evaluation_numbers, plain
from spiketrack.report.latency_section import latency_section
from spiketrack.report.page import facts as fact_list
from spiketrack.report.page import note, page, section, tiles
from spiketrack.report.tracking_sections import (
    light_section,
    sequences_section,
    timelines_section,
    tracking_section,
)
from spiketrack.report.training_section import training_section
from spiketrack.streaming import StreamingResult


def write_evaluation(
    folder: str | Path,
    result: EvaluationResult,
    class_names: Sequence[str],
    *,
    title: str,
    history: Sequence[EpochRecord] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write `metrics.json` (`evaluation_numbers`) and `report.html` into a folder and return the path of the page.

    history: of the training, for its curves. facts: what was evaluated, shown on the page and kept under "facts".
    Raises RecordingError naming the file that cannot be written; older files then stay.
    """
    folder = Path(folder)
    make_folder(folder)
    parts = break_down(result, class_names)
    values = {"title": title, **evaluation_numbers(result, parts), "facts": plain(dict(facts or {}))}
    write_whole(folder / "metrics.json", json.dumps(values, indent=1, allow_nan=False) + "\n", RecordingError)
    path = folder / "report.html"
    write_whole(path, _page(result, parts, title, history or (), facts or {}), RecordingError)
    return path


def _page(
    result: EvaluationResult,
    parts: Breakdown,
    title: str,
    history: Sequence[EpochRecord],
    facts: Mapping[str, Any],
) -> str:
    detection, tracking, class_names = result.detection, result.tracking, parts.confusion.class_names
    average = tracking.class_average
    best = [
        (f"{value:.3f}", name)
        for value, name in (
            (detection.map, "mAP, IoU 0.50 to 0.95"),
            (detection.ap50, "AP50"),
            (average.hota, "HOTA"),
            (average.idf1, "IDF1"),
            (average.mota, "MOTA"),
            (average.motp, "MOTP"),
        )
    ]
    notes = "".join(note(warning[:1].upper() + warning[1:] + ".") for warning in detection.warnings)
    body = [
        tiles(best),
        f'<div style="margin-top:20px">{notes}</div>' if notes else "",
        latency_section(result.latency) if isinstance(result, StreamingResult) else "",
        detection_section(detection, class_names),
        errors_section(parts),
        size_section(parts, class_names),
        tracking_section(tracking, class_names),
        light_section(parts),
        sequences_section(parts, tracking),
        timelines_section(parts, class_names),
        training_section(history),
        section("Evaluation", fact_list(_all_facts(result, facts))),
    ]
    sequences = len(result.sequences)
    subtitle = (
        f"{detection.labels:,} labels at {detection.label_times:,} times in {sequences} "
        f"sequence{'s' if sequences != 1 else ''}; averages over {len(class_names)} classes"
    )
    return page(title, subtitle, [part for part in body if part])


def _all_facts(result: EvaluationResult, facts: Mapping[str, Any]) -> dict[str, object]:
    detection = result.detection
    threshold = detection.score_threshold
    return {
        **facts,
        "Protocol": detection.protocol,
        "Label times": f"{detection.label_times:,}",
        "Labels": f"{detection.labels:,}",
        "Detections": f"{detection.detections:,} at label times, {detection.detections_elsewhere:,} at other times",
        "Score threshold": "none: there is no detection" if threshold is None else f"{threshold:.3f} (best mean F1)",
        "Sources": "AP as COCO (faster-coco-eval); HOTA Luiten 2021, MOTA Bernardin 2008, IDF1 Ristani 2016, "
        "kinds of error Bolya 2020 (TIDE)",
    }

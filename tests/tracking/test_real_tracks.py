"""Perfect detections of real objects give back their identities; tracker and metrics meet here."""

from pathlib import Path

import numpy as np
import pytest

from spiketrack.boxes import Boxes
from spiketrack.metrics import tracking_scores
from spiketrack.tracking import ByteTrack

pytestmark = pytest.mark.real_data


@pytest.fixture
def labels(real_data: Path) -> Boxes:
    rows = np.load(real_data / "labels" / "etram_val_day_014_bbox.npy")
    xyxy = np.c_[rows["x"], rows["y"], rows["x"] + rows["w"], rows["y"] + rows["h"]]
    return Boxes.of(rows["t"], xyxy, rows["class_id"], track_id=rows["track_id"])


def test_labels_as_detections_lose_only_the_first_box_of_each_later_track(labels: Boxes) -> None:
    tracker = ByteTrack()
    tracks = Boxes.concatenate([tracker.update(boxes, t) for t, boxes in labels.by_time()])
    row = tracking_scores([("val_day_014", labels, tracks)], ["pedestrian", "car"]).detection_average
    # 13 objects; 12 begin after the first update and count from their second box on (one has a single box)
    assert (row.labels, row.label_identities) == (1095, 13)
    assert (row.fn, row.fp, row.idsw, row.frag) == (12, 0, 0, 0)
    # no switch, nothing wrong: IDTP = 1083, IDF1 = 2 x 1083 / (2 x 1083 + 12)
    assert row.idf1 == pytest.approx(2166 / 2178, abs=1e-12)
    # measured 0.9892; the filtered boxes lie within IoU 0.95 of nearly every label
    assert row.hota > 0.985
    assert row.loca > 0.98

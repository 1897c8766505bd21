"""Protocols: what counts, by hand."""

import numpy as np
import pytest

from spiketrack.boxes import Boxes
from spiketrack.errors import SettingsError
from spiketrack.metrics import PROTOCOLS, Protocol, counted, label_period_us, protocol_named
from spiketrack.metrics.protocols import counted_labels


def sized(widths_heights: list[tuple[float, float]], t: int = 600_000) -> Boxes:
    return Boxes.of(t, [(5, 5, 5 + w, 5 + h) for w, h in widths_heights], 0)


def test_size_limits_are_inclusive() -> None:
    # 18-24-30 is a right triangle: the diagonal is exactly 30
    boxes = sized([(18, 24), (18, 23.9), (10, 40), (9.9, 40), (40, 9.9)])
    kept = counted(boxes, PROTOCOLS["prophesee-gen1"])
    assert kept.size.tolist() == boxes.size[[0, 2]].tolist()


def test_cordone_wants_sides_of_20() -> None:
    assert len(counted(sized([(18, 24), (20, 23)]), PROTOCOLS["cordone"])) == 1


@pytest.mark.parametrize(("skip_us", "times"), [(500_000, [500_001]), (0, [1, 500_000, 500_001]), (None, None)])
def test_skip_is_strict_and_none_keeps_time_zero(skip_us: int | None, times: list[int] | None) -> None:
    boxes = Boxes.of([0, 1, 500_000, 500_001], np.tile([0, 0, 50, 50], (4, 1)), 0)
    assert counted(boxes, Protocol("p", skip_us=skip_us)).t.tolist() == (times or boxes.t.tolist())


def test_unfiltered_keeps_everything_even_without_area() -> None:
    boxes = sized([(0, 0), (1, 1)], t=0)
    assert len(counted(boxes, PROTOCOLS["unfiltered"])) == 2


def test_rvt_keeps_labels_on_a_grid_of_4_hz() -> None:
    # too early; the first; 1.5 ms off a grid point, yet kept, and what the next is measured from; 3 ms off; between
    times = [50_000, 350_000, 601_500, 851_500, 1_104_500, 1_200_000, 1_351_500]
    boxes = Boxes.of(times, np.tile([0, 0, 50, 50], (7, 1)), 0)
    kept = [601_500, 851_500, 1_351_500]  # t > 0.5 s; 350,000 was the beginning of the grid all the same
    assert counted_labels(boxes, PROTOCOLS["rvt-gen1"]).t.tolist() == kept
    assert counted_labels(boxes, PROTOCOLS["prophesee-gen1"]).t.tolist() == times[2:]
    small = Boxes.of([150_000, 700_000, 950_000], [[0, 0, 9, 99], [0, 0, 50, 50], [0, 0, 50, 50]], 0)
    assert counted_labels(small, PROTOCOLS["rvt-gen1"]).t.tolist() == [700_000, 950_000]
    assert len(counted_labels(Boxes.empty(), PROTOCOLS["rvt-gen1"])) == 0


def test_no_boxes_stay_no_boxes() -> None:
    assert len(counted(Boxes.empty(), PROTOCOLS["prophesee-1mpx"])) == 0


def test_named_with_tolerance_and_unknown_name() -> None:
    named = protocol_named("prophesee-1mpx", tolerance_us=50_000)
    assert (named.min_diagonal, named.min_side, named.skip_us, named.tolerance_us) == (60, 20, 500_000, 50_000)
    assert PROTOCOLS["prophesee-1mpx"].tolerance_us is None
    with pytest.raises(SettingsError, match="'prophesee-gen1'"):
        protocol_named("prophesee_gen1")
    with pytest.raises(SettingsError, match="tolerance_us must not be negative, got -1"):
        protocol_named("cordone", -1)


def test_label_period_is_the_median_step() -> None:
    # steps 33333 (twice) and one unlabelled gap of 5 s
    t = [0, 0, 33_333, 66_666, 5_066_666]
    assert label_period_us(Boxes.of(t, np.tile([0, 0, 9, 9], (5, 1)), 0)) == 33_333
    assert label_period_us(sized([(9, 9), (9, 9)])) is None
    assert label_period_us(Boxes.empty()) is None

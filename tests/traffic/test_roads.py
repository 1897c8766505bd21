"""Roads: lanes on their side, the zebra crossings where they must be, bends worked out by hand."""

import itertools
import math

import numpy as np
import pytest

from spiketrack.traffic.layout import Lane, Layout, Road
from spiketrack.traffic.roads import Network, WorldSettings, plan_layout


def two_lanes(half=4.0, lines=((80.0, 1), (120.0, -1)), **more):
    return {"length": 200.0, "half_width": half, "lanes": (Lane(-2.0, 1), Lane(2.0, -1)), "stop_lines": lines, **more}


def junction(signals=False) -> Layout:
    """Two roads of one lane each way, lanes 2 m from the axis, stop lines 20 m before the middle."""
    return Layout((Road((-100.0, 0.0), 0.0, **two_lanes()), Road((0.0, -100.0), math.pi / 2, **two_lanes())), signals)


def route_of(network, road, direction, turn):
    for entry, routes in network.routes.items():
        segment = network.segments[entry]
        if (segment.kind, segment.road, segment.direction) == ("car", road, direction):
            return next(r for r in routes if r.turn == turn)
    raise AssertionError((road, direction, turn))


@pytest.mark.parametrize("kind", ["road", "crossing"])
@pytest.mark.parametrize("left_hand", [False, True])
def test_lanes_lie_on_the_side_of_their_direction_and_apart(kind, left_hand):
    for seed in range(20):
        for road in plan_layout(WorldSettings(kind=kind, left_hand=left_hand), (seed,)).roads:
            assert 160 <= road.length <= 240
            assert np.allclose(road.place(road.length / 2, 0), (0, 0), atol=1e-9)
            for lane in road.lanes:
                assert (lane.offset * lane.direction > 0) == left_hand
                assert abs(lane.offset) + lane.width / 2 < road.half_width
            edges = sorted((lane.offset - lane.width / 2, lane.offset + lane.width / 2) for lane in road.lanes)
            assert all(b[0] - a[1] > -1e-9 for a, b in itertools.pairwise(edges))


def test_a_junctions_zebras_continue_the_other_roads_pavement_and_vehicles_wait_before_them():
    for seed in range(10):
        first, second = plan_layout(WorldSettings(kind="crossing"), (seed,)).roads
        for one, other in ((first, second), (second, first)):
            away = other.half_width + other.pavement / 2
            np.testing.assert_allclose(one.crossings, (one.length / 2 - away, one.length / 2 + away))
            lines = {direction: s for s, direction in one.stop_lines}
            assert lines[1] < one.crossings[0] - one.crossing_width / 2
            assert lines[-1] > one.crossings[1] + one.crossing_width / 2


def test_the_same_seed_gives_the_same_roads():
    assert plan_layout(WorldSettings(), (3, 1)) == plan_layout(WorldSettings(), (3, 1))
    assert plan_layout(WorldSettings(), (3, 1)) != plan_layout(WorldSettings(), (3, 2))


def test_bends_have_the_radius_and_length_worked_out_by_hand():
    network = Network(junction())
    # eastward at y = -2 from x = -20; right: southward at x = -2, corner (-2, -2): radius 18
    right = network.segments[route_of(network, 0, 1, "near").segments[1]]
    assert right.arc == pytest.approx((0.0, 18 * math.pi / 2, 18.0))
    assert right.length == pytest.approx(18 * math.pi / 2)
    assert right.point(right.length) == pytest.approx((-2, -20, 0, -1), abs=1e-9)
    middle = right.point(right.length / 2)  # centre of the bend: (-20, -20)
    assert middle[:2] == pytest.approx((-20 + 18 / math.sqrt(2), -20 + 18 / math.sqrt(2)))
    # left: northward at x = 2, corner (2, -2): radius 22, ends at (2, 20)
    left = network.segments[route_of(network, 0, 1, "far").segments[1]]
    assert left.arc is not None
    assert left.arc[2] == pytest.approx(22)
    assert left.point(left.length) == pytest.approx((2, 20, 0, 1), abs=1e-9)


def test_left_hand_traffic_turns_near_to_the_left():
    layout = plan_layout(WorldSettings(kind="crossing", left_hand=True), (0,))
    network = Network(layout)
    near = network.segments[route_of(network, 0, 1, "near").segments[1]]
    assert near.point(near.length)[2:] == pytest.approx((0, 1), abs=1e-9)  # from eastward to northward


def test_ways_that_cross_exclude_each_other_and_parallel_ones_do_not():
    network = Network(junction())

    def through(road, direction, turn):
        return network.segments[route_of(network, road, direction, turn).segments[1]]

    east, west, north = through(0, 1, "straight"), through(0, -1, "straight"), through(1, 1, "straight")
    assert north.index in east.conflicts
    assert east.index in north.conflicts
    assert west.index not in east.conflicts
    assert through(0, -1, "far").index in east.conflicts  # turns before oncoming traffic
    assert through(0, 1, "near").index in east.splits


def test_zebras_are_marked_where_lanes_meet_them():
    lanes = (Lane(-2.0, 1), Lane(2.0, -1))
    network = Network(Layout((Road((-100.0, 0.0), 0.0, 200.0, 4.0, lanes, crossings=(70.0,)),)))
    marks = {
        (network.segments[i].kind, network.segments[i].direction): (at, left)
        for i, at, left in network.crossings[0].marks
    }
    assert marks["car", 1] == pytest.approx((70, -2))
    assert marks["car", -1] == pytest.approx((130, 2))


def test_a_falling_range_is_refused():
    with pytest.raises(ValueError, match="must rise"):
        WorldSettings(speed_kmh=(60, 30))

"""World: the laws of following, stopping and continuity, over several seeds."""

import itertools
import math

import numpy as np
import pytest

from spiketrack.traffic.actors import PEDESTRIAN, WHEELCHAIR, Actor
from spiketrack.traffic.drivers import Driver, equilibrium_gap, idm
from spiketrack.traffic.world import World, WorldSettings, plan_layout

SEEDS = [("road", 2), ("road", 6), ("crossing", 1), ("crossing", 4), ("crossing", 6)]


def world(kind="road", seed=0, ego=False, **settings) -> World:
    chosen = WorldSettings(kind=kind, **settings)
    return World(chosen, plan_layout(chosen, (seed,)), (seed,), ego)


def corners(a):
    c, s = math.cos(a.heading), math.sin(a.heading)
    ends = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)]) * (a.length / 2, a.width / 2)
    return ends @ np.array([(c, s), (-s, c)]) + (a.x, a.y)


def overlap(a, b, slack=0.05):
    """Whether two rectangles overlap: no axis parts them."""
    if math.hypot(a.x - b.x, a.y - b.y) > (a.length + b.length + a.width + b.width) / 2:
        return False
    one, other = corners(a), corners(b)
    for angle in (a.heading, a.heading + math.pi / 2, b.heading, b.heading + math.pi / 2):
        p, q = one @ (math.cos(angle), math.sin(angle)), other @ (math.cos(angle), math.sin(angle))
        if p.max() < q.min() + slack or q.max() < p.min() + slack:
            return False
    return True


def test_no_acceleration_at_the_equilibrium_gap():
    driver = Driver(speed=15.0, acceleration=1.4, braking=2.0, headway=1.2, gap=2.0)
    # (2 + 12) / sqrt(1 - (10 / 15)^4) = 14 / sqrt(1 - 16 / 81)
    assert equilibrium_gap(driver, 10.0) == pytest.approx(14 / math.sqrt(65 / 81))
    assert idm(driver, 10.0, equilibrium_gap(driver, 10.0), 0.0) == pytest.approx(0.0, abs=1e-12)


def test_a_follower_settles_at_the_equilibrium_gap():
    driver = Driver(15.0)
    gap, speed = 60.0, 15.0
    for _ in range(8000):
        rate = idm(driver, speed, gap, speed - 8.0)
        gap, speed = gap + (8.0 - speed - rate * 0.025) * 0.05, speed + rate * 0.05
    assert speed == pytest.approx(8.0, abs=1e-3)
    assert gap == pytest.approx(equilibrium_gap(driver, 8.0), abs=0.01)


def test_cars_stop_before_the_line_at_red_and_go_on_green():
    w = world("crossing", 4, signals=True)
    segments = w.network.segments
    stood, went = set(), set()
    inside_before = {v.track_id for v in w._vehicles if v.leg > 0}
    for t in range(0, 80_000_000, 50_000):
        w.at(t)
        for v in w._vehicles:
            here = segments[v.route.segments[0]]
            # the state lies one step after t
            light = w.light(here.road, t)
            if v.leg == 0 and light == "red" and v.speed < 0.05 and here.length - v.way < 3:
                stood.add(v.track_id)
                assert here.length - v.way > 0
            if v.leg == 1 and v.track_id not in inside_before:
                inside_before.add(v.track_id)
                assert light != "red"
                if v.track_id in stood:
                    went.add(v.track_id)
    assert len(went) >= 3


def test_both_roads_never_have_green_at_once():
    w = world("crossing", 0, signals=True)
    lights = [(w.light(0, t), w.light(1, t)) for t in range(0, 120_000_000, 100_000)]
    assert {light for pair in lights for light in pair} == {"green", "amber", "red"}
    assert all("red" in pair for pair in lights)


@pytest.mark.parametrize(("kind", "seed"), SEEDS)
def test_vehicles_of_a_lane_never_overlap(kind, seed):
    w = world(kind, seed)
    for t in range(0, 60_000_000, 200_000):
        w.at(t)
        w._lanes.occupy(w._vehicles)
        for segment, entries in zip(w.network.segments, w._lanes.occupied, strict=True):
            if segment.role != "turn":
                entries.sort(key=lambda e: e[0])
                for behind, before in itertools.pairwise(entries):
                    assert before[1] - behind[0] > 0.1, (t, segment.role, behind, before)
    vehicles = [a for a in w.at(60_000_000) if a.class_id not in (PEDESTRIAN, WHEELCHAIR)]
    assert len(vehicles) > 5
    assert not any(overlap(a, b) for i, a in enumerate(vehicles) for b in vehicles[:i])


@pytest.mark.parametrize(("kind", "seed"), SEEDS)
def test_positions_and_headings_have_no_jumps(kind, seed):
    w, last, step = world(kind, seed), {}, 10_000
    followed = 0
    for t in range(0, 15_000_000, step):
        now = {a.track_id: a for a in w.at(t)}
        for track_id in now.keys() & last.keys():
            a, b = last[track_id], now[track_id]
            way = math.hypot(b.x - a.x, b.y - a.y)
            assert way <= max(a.speed, b.speed) * step / 1e6 * 1.1 + 0.003, b
            assert abs(b.heading - a.heading) <= 2.5 * step / 1e6, b
            assert b.travelled >= a.travelled
            followed += 1
        last = now
    assert followed > 10_000


def test_velocity_is_continuous_over_a_step():
    w = world("crossing", 1)
    before, at, after = ({a.track_id: a for a in w.at(t)} for t in (999_900, 1_000_000, 1_000_100))
    for i in before.keys() & at.keys() & after.keys():
        first = np.subtract((at[i].x, at[i].y), (before[i].x, before[i].y)) / 1e-4
        second = np.subtract((after[i].x, after[i].y), (at[i].x, at[i].y)) / 1e-4
        assert np.abs(first - second).max() < 0.02, at[i]


@pytest.mark.parametrize("kind", ["road", "crossing"])
def test_the_same_actors_for_any_calls(kind):
    fine, coarse, leap = (world(kind, 5, ego=True) for _ in range(3))
    for t in range(0, 8_000_000, 3_100):
        fine.at(t)
    for t in range(0, 8_000_000, 777_000):
        coarse.ego_pose(t)
    assert fine.at(8_012_345) == coarse.at(8_012_345) == leap.at(8_012_345)
    assert fine.ego_pose(8_020_000) == coarse.ego_pose(8_020_000) == leap.ego_pose(8_020_000)


def test_time_must_not_run_backward():
    w = world()
    w.at(100_000)
    with pytest.raises(ValueError, match="must not decrease"):
        w.at(99_999)


def test_memory_stays_bounded_over_ten_minutes():
    w = world("road", 1, lanes_per_direction=(1, 1))
    kept, seen = [], set()
    for t in range(0, 600_000_000, 1_000_000):
        seen |= {a.track_id for a in w.at(t)}
        kept.append(w.kept)
    assert len(seen) > 200
    assert max(kept[300:]) < 1.6 * max(kept[:300])
    assert max(kept) < len(seen) / 2
    assert max(len(s.zebras) for s in w.network.segments) < 10  # places of jaywalkers are forgotten too


def test_every_class_occurs():
    w = world("road", 0, tram_lanes=1.0, wheelchairs=0.2)
    seen = {a.class_id for t in range(0, 120_000_000, 1_000_000) for a in w.at(t)}
    assert seen == set(range(8))


def test_the_scene_is_populated_from_the_start():
    counts = [len(world("crossing", seed).at(0)) for seed in range(5)]
    assert min(counts) >= 15


def test_vehicles_wait_for_a_walker_on_a_zebra():
    hit = 0
    for seed in (0, 1, 3):
        w = world("road", seed, zebras=(2, 2), pedestrians_per_minute=30.0)
        for t in range(0, 40_000_000, 250_000):
            actors = w.at(t)
            walkers = [a for a in actors if a.class_id in (PEDESTRIAN, WHEELCHAIR)]
            hit += sum(overlap(a, v) for v in actors if v.class_id not in (PEDESTRIAN, WHEELCHAIR) for a in walkers)
    assert hit <= 1


@pytest.mark.parametrize(("kind", "seed"), SEEDS)
def test_the_ego_car_keeps_its_lane_smoothly_and_hits_no_one(kind, seed):
    w = world(kind, seed, ego=True, length_m=(240.0, 240.0))
    last = w.ego_pose(0)
    lane = w.network.segments[w._ego.segment].point(0.0)[1]
    for t in range(10_000, 25_000_000, 10_000):
        x, y, heading, speed = now = w.ego_pose(t)
        assert math.hypot(x - last[0], y - last[1]) <= max(speed, last[3]) * 0.01 * 1.02 + 1e-4
        assert abs(y - lane) < 0.01
        assert abs(heading) < 0.01
        assert abs(heading - last[2]) < 0.001
        last = now
        if t % 500_000 == 0:
            actors = w.at(t)
            body = Actor(0, 1, x, y, heading, speed, 0.0, 4.5, 1.8, 1.5, 0)
            assert 0 not in {a.track_id for a in actors}
            assert not any(overlap(a, body) for a in actors)
    assert last[0] > -80


def test_without_an_ego_car_there_is_no_pose():
    with pytest.raises(ValueError, match="ego=True"):
        world().ego_pose(0)

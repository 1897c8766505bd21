import numpy as np

from spiketrack.traffic.plans import plan_camera, plan_world
from spiketrack.traffic.roads import WorldSettings, plan_layout


def test_light_traffic_changes_only_its_own_shares():
    plain, more, most = (plan_world([3, 1], False, factor) for factor in (1.0, 4.0, 100.0))
    assert plain == plan_world([3, 1], False)
    assert (plain.bicycle, plain.motorbike, plain.wheelchairs, plain.bicycle_lanes) == (0.15, 0.08, 0.05, 0.5)
    assert (more.bicycle, more.motorbike, more.wheelchairs, more.bicycle_lanes) == (0.6, 0.32, 0.2, 1.0)
    own = {"bicycle", "motorbike", "wheelchairs", "bicycle_lanes"}
    assert plain.model_dump(exclude=own) == more.model_dump(exclude=own)
    assert (most.bicycle, most.motorbike) == (1.0, 1.0)  # shares end at 1
    assert plan_world([3, 1], False, 0.0) == WorldSettings.model_validate(
        {**plain.model_dump(), **dict.fromkeys(own, 0)}
    )


def test_cameras_look_at_the_road_along_it_from_above_and_across():
    across, rises = [], []
    for seed in range(200):
        layout = plan_layout(plan_world([seed], False), [seed])
        camera = plan_camera(layout, 346, 260, 300.0, np.random.default_rng(seed))
        road = layout.roads[0]
        places = road.place(np.linspace(0, road.length, 200), np.zeros(200))
        pixels, depth = camera.project(np.column_stack([places, np.zeros(200)]))
        seen = (depth > 0) & (pixels >= 0).all(-1) & (pixels < (346, 260)).all(-1)
        assert seen.any()
        _, lateral = road.local(camera.position[:2])
        outside = abs(lateral) - road.half_width
        assert outside < 45
        if outside > 2.5:  # from a window or a roof: within 50 degrees, and a little, of straight across
            along = np.subtract(*road.place([1.0, 0.0], [0.0, 0.0]))
            angle = np.degrees(np.arctan2(along[1], along[0])) - np.degrees(camera.heading)
            across.append(abs((angle + 90) % 180 - 90))
        rises.append(camera.position[2])
    assert 40 < len(across) < 80
    assert min(across) > 90 - 50 - 20
    assert max(across) > 80
    assert min(rises) < 4
    assert max(rises) > 15

from spiketrack.traffic.plans import plan_world
from spiketrack.traffic.roads import WorldSettings


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

"""Joints: the fifteen of a person, in the order of the simulator's annotations, and what a metric must know of them.

Sigmas say how far two people who mark the same joint lie apart, as a share of the person's size: those of COCO for
shoulders to ankles, of CrowdPose (Li et al., CVPR 2019) for head and neck; the pelvis has that of the hips.
"""

from __future__ import annotations

import numpy as np

from spiketrack.traffic.body_parts import JOINTS

SIGMA_OF = {
    "head": 0.079,
    "neck": 0.079,
    "pelvis": 0.107,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
SIGMAS = np.array([SIGMA_OF[name.split()[-1]] for name in JOINTS])

NECK, PELVIS = JOINTS.index("neck"), JOINTS.index("pelvis")
"""Their distance is the length of the torso, which hardly depends on where a person looks."""

_SWAPPED = {"left": "right", "right": "left"}
MIRRORED = tuple(JOINTS.index(" ".join(_SWAPPED.get(word, word) for word in name.split())) for name in JOINTS)
"""For each joint the one that stands in its place in a mirror image."""

_SIDES = [
    (f"{side} {end}" if end in ("shoulder", "elbow", "hip", "knee") else end, f"{side} {other}")
    for side in _SWAPPED
    for end, other in (
        ("neck", "shoulder"),
        ("shoulder", "elbow"),
        ("elbow", "wrist"),
        ("pelvis", "hip"),
        ("hip", "knee"),
        ("knee", "ankle"),
    )
]
BONES = tuple(
    (JOINTS.index(end), JOINTS.index(other)) for end, other in [("head", "neck"), ("neck", "pelvis"), *_SIDES]
)
"""Pairs of joints that a drawing connects."""

"""OC-SORT: trust what was seen more than what the filter made of it.

Station: the detections of one time go in, the tracks seen at that time come out. Source: Cao et al., CVPR 2023. Beside
the predicted place, a pair is worth more where the track goes on in its direction (momentum); tracks left over match
by their last detection (recovery); and a track found again repeats what it missed along the straight way in between
(re-update), so that no drift stays in its velocity. A new track counts after `confirm_hits` updates in a row, in the
first `confirm_hits` updates at once, and from then on; the published code asks for as many again after every miss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from spiketrack.tracking.settings import OCSortSettings
from spiketrack.tracking.tracks import Records, Tracker

if TYPE_CHECKING:
    from spiketrack.tracking.oc_kernels import OCRules


class OCSort(Tracker):
    """A tracker of one recording, after OC-SORT; make a new one for the next recording."""

    _name: ClassVar[str] = "oc_sort"

    def __init__(self, settings: OCSortSettings | None = None) -> None:
        self.settings = settings or OCSortSettings()
        super().__init__(self.settings)
        self._rules: OCRules | None = None

    @property
    def _new_score(self) -> float:
        return self.settings.high_score

    def _confirms_at_once(self) -> bool:
        return self._updates < self.settings.confirm_hits

    def _match(
        self, tracks: Records, found: Records, look: NDArray, found_look: NDArray
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        from spiketrack.tracking.oc_kernels import match_oc_sort

        self._rules = self._rules or _rules(self.settings)
        return match_oc_sort(tracks, found, look, found_look, self._rules)

    def _correct(self, tracks: Records, found: Records, partner: NDArray[np.int64], t_us: int) -> NDArray[np.bool_]:
        from spiketrack.tracking.oc_kernels import correct_oc_sort

        return correct_oc_sort(tracks, found, partner, t_us, self.settings.confirm_hits, self.settings.momentum_us)

    def _begin(self, new: Records) -> None:
        from spiketrack.tracking.oc_kernels import keep_all

        keep_all(new, self.settings.momentum_us)


def _rules(settings: OCSortSettings) -> OCRules:
    from spiketrack.tracking.kernels import Recovery, Rule
    from spiketrack.tracking.oc_kernels import OCRules

    embedding = settings.embedding
    rule = Rule(
        1 - settings.match_limit, False, settings.class_aware, float(embedding.weight), float(embedding.minimum)
    )
    return OCRules(
        settings.high_score,
        settings.low_score,
        settings.use_weak,
        float(settings.momentum),
        rule,
        rule._replace(minimum=max(rule.minimum, 0.5)),
        Recovery(float(embedding.recover), float(embedding.reach), settings.class_aware),
    )

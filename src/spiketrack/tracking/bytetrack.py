"""ByteTrack: every detection counts, the weak ones too, to continue tracks.

Station: the detections of one time go in, the tracks seen at that time come out. Motion is predicted in microseconds,
so updates may come at any rate. Source: Zhang et al., ECCV 2022, with its published constants. A new track counts at
once at the first update, later after `confirm_hits` updates in a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from spiketrack.tracking.settings import ByteTrackSettings
from spiketrack.tracking.tracks import Records, Tracker

if TYPE_CHECKING:
    from spiketrack.tracking.kernels import ByteRules


class ByteTrack(Tracker):
    """A tracker of one recording, after ByteTrack; make a new one for the next recording."""

    _name: ClassVar[str] = "bytetrack"

    def __init__(self, settings: ByteTrackSettings | None = None) -> None:
        self.settings = settings or ByteTrackSettings()
        super().__init__(self.settings)
        self._rules: ByteRules | None = None

    @property
    def _new_score(self) -> float:
        return max(self.settings.new_score, self.settings.high_score)

    def _confirms_at_once(self) -> bool:
        return self._updates == 0 or self.settings.confirm_hits == 1

    def _match(
        self, tracks: Records, found: Records, look: NDArray, found_look: NDArray
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        from spiketrack.tracking.kernels import match_bytetrack

        self._rules = self._rules or _rules(self.settings)
        return match_bytetrack(tracks, found, look, found_look, self._rules)

    def _correct(self, tracks: Records, found: Records, partner: NDArray[np.int64], t_us: int) -> NDArray[np.bool_]:
        from spiketrack.tracking.kernels import correct_bytetrack

        return correct_bytetrack(tracks, found, partner, t_us, self.settings.confirm_hits)

    def _finish(self) -> None:
        from spiketrack.tracking.kernels import unlike

        stays = unlike(self._tracks, self.settings.duplicate_limit, self.settings.class_aware)
        if not stays.all():
            self._tracks, self._look = self._tracks[stays], self._look[stays]


def _rules(settings: ByteTrackSettings) -> ByteRules:
    from spiketrack.tracking.kernels import ByteRules, Recovery, Rule

    embedding, aware = settings.embedding, settings.class_aware
    look = (float(embedding.weight), float(embedding.minimum))
    return ByteRules(
        settings.high_score,
        settings.low_score,
        Rule(1 - settings.match_limit, True, aware, *look),
        Rule(1 - settings.second_match_limit, False, aware, *look),
        Rule(1 - settings.unconfirmed_match_limit, True, aware, *look),
        Recovery(float(embedding.recover), float(embedding.reach), aware),
    )

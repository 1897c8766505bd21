"""Light: whether a sequence was recorded by day, at dusk or by night, so that scores can be told apart by it.

Station: a labelled sequence goes in, a word comes out. Simulated data sets say it in dataset.json; eTraM's file names
hold it (train_day_0001_td.h5, val_night_012_td.h5).
"""

from __future__ import annotations

import json
import logging
import re
from typing import Literal, get_args

from spiketrack.datasets.etram import DAT_SUFFIX, EVENTS_SUFFIX, LabelledSequence

Light = Literal["day", "dusk", "night", "unknown"]
LIGHTS: tuple[Light, ...] = get_args(Light)

log = logging.getLogger(__name__)


def light_of(sequence: LabelledSequence) -> Light:
    """The light of a sequence: of the data set's dataset.json, else a word of the file's name, else "unknown".

    A dataset.json that cannot be read is named in the log, as the light is no reason to lose an evaluation.
    """
    name = sequence.path.name.removesuffix(EVENTS_SUFFIX).removesuffix(DAT_SUFFIX)
    words = [_recorded(sequence, name), *re.split(r"[^a-z]+", name.lower())]
    return next((light for word in words for light in LIGHTS[:-1] if word == light), "unknown")


def _recorded(sequence: LabelledSequence, name: str) -> str | None:
    """What dataset.json of the data set, ROOT of ROOT/HDF5/<split>/<file> or ROOT/<split>/<file>, says of a scene."""
    roots = sequence.path.absolute().parents[1:3]
    path = next((root / "dataset.json" for root in roots if (root / "dataset.json").is_file()), None)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))["scenes"][name]["daytime"]
    except KeyError:
        return None
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s: cannot be read for the light of its scenes (%s)", path, " ".join(str(error).split()))
        return None

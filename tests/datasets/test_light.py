"""The light of a sequence: of dataset.json, of the file's name, unknown."""

import json
from collections import Counter

import pytest

from spiketrack.boxes import Boxes
from spiketrack.datasets.etram import LabelledSequence
from spiketrack.datasets.light import light_of


def sequence_at(path):
    return LabelledSequence(path.name, path, 64, 64, Boxes.empty(), Counter())


@pytest.mark.parametrize(
    ("name", "light"),
    [
        ("train_day_0001_td.h5", "day"),
        ("val_night_012_td.h5", "night"),
        ("Night-3_td.dat", "night"),
        ("today_0001_td.h5", "unknown"),
        ("moorea_2019-02-21_000_td.dat", "unknown"),
    ],
)
def test_names(tmp_path, name, light):
    assert light_of(sequence_at(tmp_path / "HDF5" / "test" / name)) == light


def test_the_data_set_says_it(tmp_path, caplog):
    scenes = {"a": {"daytime": "dusk"}, "b_night": {"events": 3}, "c": {"daytime": "noon"}}
    (tmp_path / "dataset.json").write_text(json.dumps({"scenes": scenes}))
    folder = tmp_path / "HDF5" / "test"
    names = ("a", "b_night", "c", "other_day")
    assert [light_of(sequence_at(folder / f"{name}_td.h5")) for name in names] == ["dusk", "night", "unknown", "day"]
    (tmp_path / "dataset.json").write_text(json.dumps({"kind": "squares"}))
    assert light_of(sequence_at(folder / "a_td.h5")) == "unknown"
    assert not caplog.records
    (tmp_path / "dataset.json").write_text("{")
    assert light_of(sequence_at(folder / "x_day_td.h5")) == "day"
    assert "dataset.json: cannot be read for the light" in caplog.text

"""Folders of samples: the class is the folder, and what is missing is named."""

from collections import Counter

import numpy as np
import pytest
from recording_encoders import dat_header, encode_dat

from spiketrack.errors import RecordingError
from spiketrack.recordings import open_recording
from spiketrack.recordings.folders import Sample, samples


def made(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(dat_header(None) + encode_dat([1], [2], [3], [1]))
    return root


DIGITS = [f"{split}/{digit}/{i}.bin" for split in ("Train", "Test") for digit in range(10) for i in (2, 1)]


def test_n_mnist(tmp_path):
    found = samples(made(tmp_path, *DIGITS, "Train/3/._5.bin", "Train/3/notes.txt", "Other/3/5.bin"))
    assert len(found) == 40
    assert found[0] == Sample(tmp_path / "Train" / "0" / "1.bin", "0", 0, "train", 34, 34)
    assert found[-1] == Sample(tmp_path / "Test" / "9" / "2.bin", "9", 9, "test", 34, 34)
    assert Counter((sample.split, sample.class_id) for sample in found) == {
        (split, digit): 2 for split in ("train", "test") for digit in range(10)
    }


@pytest.mark.parametrize("split", ["n-cars_train", "train", "ncars_TRAIN"])
def test_n_cars(tmp_path, split):
    found = samples(made(tmp_path, f"{split}/cars/obj_1_td.dat", f"{split}/background/obj_2_td.dat"))
    assert [(s.class_name, s.class_id, s.split, s.width, s.height) for s in found] == [
        ("background", 0, "train", 120, 100),
        ("cars", 1, "train", 120, 100),
    ]
    assert (open_recording(found[1].path).width, open_recording(found[1].path, found[1].width).width) == (3, 120)


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (["a/b/c.bin"], "no folder of a split; expected N-MNIST .* or N-CARS .*, found a"),
        (["readme"], "found no folder"),
        (["Train/cats/c.bin"], "Train: no folder of a class; expected N-MNIST"),
        (DIGITS[2:20] + DIGITS[22:], "Train: no folder 0; N-MNIST has one for each class"),
        ([*DIGITS[:38], "Test/9/a.txt"], r"Test/9: no file \*\.bin; expected the samples of class 9"),
        (["train/cars/a_td.dat"], "train: no folder background; N-CARS has one"),
        (["train/cars/a_td.dat", "n-cars_train/cars/a_td.dat"], "two folders of the split train: n-cars_train, train"),
    ],
)
def test_what_is_missing_is_named(tmp_path, paths, says):
    with pytest.raises(RecordingError, match=says) as error:
        samples(made(tmp_path, *paths))
    assert str(tmp_path) in str(error.value)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(RecordingError, match="none: cannot be read: No such file or directory; expected N-MNIST"):
        samples(tmp_path / "none")


@pytest.mark.real_data
def test_the_real_samples(real_data, tmp_path):
    found = samples(real_data / "nmnist")
    assert Counter(sample.split for sample in found) == {"train": 1000, "test": 100}
    car = real_data / "recordings" / "NCARS_obj_004397_td.dat"
    for name in ("cars", "background"):
        folder = tmp_path / "n-cars_test" / name
        folder.mkdir(parents=True)
        (folder / car.name).symlink_to(car)
    sample = samples(tmp_path)[1]
    recording = open_recording(sample.path, sample.width, sample.height)
    (events,) = recording.chunks()
    assert (len(events), int(np.count_nonzero(events.p)), recording.invalid) == (4407, 1671, {})
    assert (events.width, events.height, sample.class_name) == (120, 100, "cars")

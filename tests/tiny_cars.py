"""A tiny data set in N-CARS's layout, written by hand: "cars" are upright bars that drift, "background" lying ones.

Every file is DAT without a size in its header, as N-CARS's are, of about 100 ms.
"""

from pathlib import Path

import numpy as np

EVENTS = 600
DURATION_US = 100_000
NAMES = ("background", "cars")


def dat_bytes(t, x, y, p) -> bytes:
    words = np.array([t, np.array(p, "u4") << 28 | np.array(y, "u4") << 14 | np.array(x, "u4")], "<u4")
    return b"% Data file\n% Version 2\n\x0c\x08" + words.T.tobytes()


def bar(class_id: int, seed: int) -> tuple[np.ndarray, ...]:
    """t, x, y, p of a bar of 60 pixels that drifts by 10 pixels across its length."""
    rng = np.random.default_rng([class_id, seed])
    t = np.sort(rng.integers(0, DURATION_US, EVENTS))
    across = rng.integers(20, 70) + 10 * t // DURATION_US
    along = rng.integers(20, 80, EVENTS)
    x, y = (across, along) if NAMES[class_id] == "cars" else (along, across)
    return t, x, y, rng.integers(0, 2, EVENTS)


def write_cars(root: Path, *, train: int = 6, test: int = 4) -> Path:
    """`train` and `test` files of each class; returns root."""
    for split, count in (("train", train), ("test", test)):
        for class_id, name in enumerate(NAMES):
            folder = root / f"n-cars_{split}" / name
            folder.mkdir(parents=True)
            for i in range(count):
                seed = i + (100 if split == "test" else 0)
                (folder / f"obj_{i:06d}_td.dat").write_bytes(dat_bytes(*bar(class_id, seed)))
    return root

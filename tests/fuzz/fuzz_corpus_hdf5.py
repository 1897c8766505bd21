"""The HDF5 files of the fuzz run's corpus: every layout and filter, in the structures of old and new libraries."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
from fuzz_seeds import HEIGHT, WIDTH, Seed, make_events, make_triggers, structured, written

from spiketrack.events import Events
from spiketrack.recordings import hdf5_storing

_CHUNK = 64  # rows
_FIRST_PLUGIN = 32_001  # the number of Blosc; ECF's is larger
_FILTERS = {"x": {"fletcher32": True}, "y": {"compression": "lzf"}, "p": {}, "t": {"shuffle": True, "compression": 1}}


def hdf5_seeds(folder: Path) -> list[Seed]:
    e, path = make_events(500, 11), folder / "a.h5"
    seeds = []
    kept = hdf5_storing.STORED_CHUNK, hdf5_storing._INDEX_CHUNK
    hdf5_storing.STORED_CHUNK = hdf5_storing._INDEX_CHUNK = _CHUNK
    try:
        seeds.append(_aimed("hdf5", written(path, e, make_triggers(e), compression="gzip"), path))
        seeds.append(_aimed("hdf5", _unpacked(path), path.with_suffix(".hdf5")))
        if importlib.util.find_spec("hdf5plugin"):
            seeds.append(_aimed("hdf5", written(path, e, compression="blosc"), path))
            seeds.append(_blosc2(path, e))
        for number in (11, 12, 13):
            events = make_events(200, number)
            seeds.append(_aimed("hdf5-ecf", written(path, events, make_triggers(e), compression="ecf"), path))
    finally:
        hdf5_storing.STORED_CHUNK, hdf5_storing._INDEX_CHUNK = kept
    for kind, write in _LAYOUTS:
        for version in ("earliest", "latest"):
            with h5py.File(path, "w", libver=version) as file:
                write(file, e)
            seeds.append(_aimed(kind, path.read_bytes(), path))
    return seeds


def _unpacked(path: Path) -> bytes:
    """As EventWriter writes it without compression, in smaller chunks; leaves the file under the suffix .hdf5."""
    with h5py.File(path) as packed, h5py.File(path.with_suffix(".hdf5"), "w") as file:

        def copy(name: str, found: object) -> None:
            if isinstance(found, h5py.Dataset):
                how = {"chunks": (_CHUNK,), "maxshape": (None,)} if found.shape else {}
                file.create_dataset(name, data=found[()], **how)

        packed.visititems(copy)
        file["events"].attrs.update(packed["events"].attrs)
    return path.with_suffix(".hdf5").read_bytes()


def _write_rvt(file: h5py.File, e: Events) -> None:
    for name, dtype in zip("xypt", ("<u2", "<u2", "i1", "<i8"), strict=True):
        file[f"events/{name}"] = getattr(e, name).astype(dtype)
    file["events/width"], file["events/height"] = WIDTH, HEIGHT


def _write_filtered(file: h5py.File, e: Events) -> None:
    for name, how in _FILTERS.items():
        file.create_dataset(f"events/{name}", data=getattr(e, name), chunks=(_CHUNK,), maxshape=(None,), **how)
    file["events/width"], file["events/height"] = WIDTH, HEIGHT


def _blosc2(path: Path, e: Events) -> Seed:
    import hdf5plugin

    with h5py.File(path, "w") as file:
        for name in "xypt":
            file.create_dataset(f"events/{name}", data=getattr(e, name), chunks=(_CHUNK,), **hdf5plugin.Blosc2())
        file["events/width"], file["events/height"] = WIDTH, HEIGHT
    return _aimed("hdf5", path.read_bytes(), path)


def _write_dsec(file: h5py.File, e: Events) -> None:
    for name, dtype in zip("txyp", ("u4", "u2", "u2", "u1"), strict=True):
        column = getattr(e, name).astype(dtype)
        file.create_dataset(f"events/{name}", data=column, chunks=(_CHUNK,), maxshape=(None,))
    file["t_offset"] = 1_620_000_000_000_000
    file["ms_to_idx"] = np.searchsorted(e.t, np.arange(e.t[-1] // 1000 + 1) * 1000).astype("u8")


def _write_prophesee(file: h5py.File, e: Events) -> None:
    records = structured(e, [("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])
    file.create_dataset("CD/events", data=records, chunks=(_CHUNK,), maxshape=(None,), compression="gzip")
    triggers = make_triggers(e)
    signals = np.zeros(len(triggers), [("p", "<i2"), ("t", "<i8"), ("id", "<i2")])
    signals["p"], signals["t"], signals["id"] = triggers.value, triggers.t, triggers.channel
    file["EXT_TRIGGER/events"] = signals
    index = np.zeros(150, [("id", "<u8"), ("ts", "<i8")])
    index["id"] = np.searchsorted(e.t, np.arange(len(index)) * 2000)
    index["ts"] = e.t[np.minimum(index["id"], len(e) - 1)]
    file["CD/indexes"] = index
    file["CD/indexes"].attrs["offset"] = "0"
    file.attrs["geometry"] = f"{WIDTH}x{HEIGHT}"


_LAYOUTS = (
    ("hdf5", _write_rvt),
    ("hdf5", _write_filtered),
    ("hdf5-dsec", _write_dsec),
    ("hdf5-prophesee", _write_prophesee),
)


def _aimed(kind: str, content: bytes, path: Path) -> Seed:
    """Aim at what is not stored events, and at chunks whose coding has a structure of its own."""
    stored: list[tuple[int, int]] = []
    coded: list[tuple[int, int]] = []

    def add(name: str, found: object) -> None:
        if isinstance(found, h5py.Dataset) and found.chunks:
            infos = (found.id.get_chunk_info(i) for i in range(found.id.get_num_chunks()))
            places = [(info.byte_offset, info.byte_offset + info.size) for info in infos]
            stored.extend(places)
            settings = found.id.get_create_plist()
            if any(settings.get_filter(i)[0] >= _FIRST_PLUGIN for i in range(settings.get_nfilters())):
                coded.extend(places)

    with h5py.File(path) as file:
        file.visititems(add)
    borders = sorted([(0, 0), *stored, (len(content), len(content))])
    between = [(one[1], other[0]) for one, other in pairwise(borders) if other[0] > one[1]]
    return Seed(kind, ".h5", content, tuple(coded + between))

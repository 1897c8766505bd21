"""Small valid files of every format, made by our own writers and encoders: what the fuzz run mutates."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import numpy as np
from aedat4_encoder import LZ4, NONE, ZSTD, encode_aedat4
from fuzz_corpus_hdf5 import hdf5_seeds
from fuzz_seeds import HEIGHT, WIDTH, Seed, array_aims, make_events, make_triggers, rows_of, structured, written

from spiketrack.boxes import Boxes
from spiketrack.recordings import ReadOptions, index, open_recording, save_labels

WEIGHTS = {  # shares of the run
    "evt2": 10, "evt2.1": 10, "evt3": 18, "dat": 10, "text": 13, "npy": 8, "npz": 6, "nmnist": 4, "aedat4": 3,
    "hdf5": 3, "hdf5-dsec": 3, "hdf5-prophesee": 3, "hdf5-ecf": 4, "labels": 4, "index": 4,
}  # fmt: skip
MTIME_NS = 1_700_000_000_000_000_000  # of every file, so that its index can be made beforehand
INDEX_EVERY = 100  # events


def make_corpus() -> dict[str, list[Seed]]:
    """The files by kind, the same ones at every call; no AEDAT4 where the package `aedat` is missing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seeds = [*_raw(folder), *_dat(folder), *_text(folder), *_arrays(), *_small(), *_labels(folder)]
        seeds += [*hdf5_seeds(folder), *_indexed(folder)]
    corpus: dict[str, list[Seed]] = {}
    for seed in seeds:
        corpus.setdefault(seed.kind, []).append(seed)
    return corpus


def has_aedat() -> bool:
    try:
        import aedat  # noqa: F401
    except ImportError:
        return False
    return True


def _raw(folder: Path) -> list[Seed]:
    seeds = []
    late = make_events(200, 3, 40_000_000, (1 << 34) - 20_000_000)  # across a wrap of every clock
    for format in ("evt2", "evt2.1", "evt2.1-legacy", "evt3"):
        for events in (make_events(150, 1), make_events(3000, 2), late):
            content = written(folder / "a.raw", events, make_triggers(events), format=format)
            start = content.index(b"% end\n") + 6
            seeds.append(_headed(format.removesuffix("-legacy"), ".raw", content[:start], content[start:]))
        if format in ("evt2", "evt3"):  # a header without a size
            seeds.append(_headed(format, ".raw", f"% evt {format[3:]}.0\n".encode(), content[start:]))
    return seeds


def _dat(folder: Path) -> list[Seed]:
    seeds = []
    late = make_events(200, 3, 40_000_000, (1 << 32) - 20_000_000)
    for events in (make_events(150, 4), make_events(3000, 5), late):
        content = written(folder / "a.dat", events)
        start = len(content) - 8 * len(events)
        seeds.append(_headed("dat", ".dat", content[:start], content[start:]))
    seeds.append(_headed("dat", ".dat", b"% Version 2\n\x00\x08", content[start:]))
    e = make_events(200, 6)
    words = [t | (x | y << 9 | p << 17) << 32 for t, x, y, p in rows_of(e)]
    header = b"% Version 1\n% Width 64\n% Height 48\n\x00\x08"
    seeds.append(_headed("dat", ".dat", header, np.array(words, "<u8").tobytes()))
    return seeds


def _headed(kind: str, suffix: str, header: bytes, body: bytes) -> Seed:
    size = len(header) + len(body)
    return Seed(kind, suffix, header + body, ((len(header), size), (len(header), size), (0, len(header))), len(header))


def _text(folder: Path) -> list[Seed]:
    e = make_events(120, 7)
    rows = rows_of(e)
    contents = [
        written(folder / "a.csv", e),
        b"".join(b"%.6f %d %d %d\n" % (t / 1e6, x, y, p) for t, x, y, p in rows),
        b"64 48\n" + b"".join(b"%d %d %d %d\r\n" % row for row in rows),
        b"# width 64 height 48\nx;y;p;timestamp [ns]\n"
        + b"".join(b"%d;%d;%d;%d\n" % (x, y, 2 * p - 1, t * 1000) for t, x, y, p in rows),
        b"\xef\xbb\xbft,x,y,polarity,extra\n" + b"".join(b"%d,%d,%d,true,0x\n" % row[:3] for row in rows),
        b"% geometry: 64x48\n" + b"".join(b"%d\t%d\t%d\t%d\n" % row for row in rows_of(e, "xypt")),
        b"t_ms,x,y,p\n"
        + b"".join(b"%.3e,+%d,%d,%s\n" % (t / 1e3, x, y, b"off" if p else b"ON") for t, x, y, p in rows),
    ]
    return [Seed("text", ".csv", content, ((0, 120),)) for content in contents]


def saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    """A `.npy` file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def _arrays() -> list[Seed]:
    e = make_events(150, 8)
    arrays = [
        structured(e, [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")]),
        structured(e, [("x", ">i2"), ("y", "<f4"), ("timestamp", "<f8"), ("polarity", "?")]),
        structured(e, [("t_ns", "<u8"), ("x", "u1"), ("y", "u1"), ("p", "i1")]),
        np.array(rows_of(e), "<i8"),
        np.asfortranarray(np.array(rows_of(e, "xypt"), "<f8")),
        np.array(rows_of(e), "<i4").T.copy(),
    ]
    seeds = []
    for array in arrays:
        content = saved(array, (2, 0) if array is arrays[2] else None)
        start = content.index(b"\n") + 1
        seeds.append(Seed("npy", ".npy", content, array_aims(start, len(content)), start))
    members = [
        {"t": e.t, "x": e.x, "y": e.y, "p": e.p},
        {"events": arrays[0], "width": np.array(WIDTH), "height": np.array(HEIGHT)},
    ]
    for save in (np.savez, np.savez_compressed):
        for named in members:
            file = io.BytesIO()
            save(file, **named)
            content = file.getvalue()
            seeds.append(Seed("npz", ".npz", content, ((0, 160), (content.index(b"PK\x01\x02"), len(content)))))
    return seeds


def _small() -> list[Seed]:
    e = make_events(150, 9)
    rows = [(x % 34, y % 34, p << 7 | t >> 16, t >> 8 & 255, t & 255) for t, x, y, p in rows_of(e)]
    seeds = [Seed("nmnist", ".bin", b"".join(map(bytes, rows)))]
    if not has_aedat():
        return seeds
    events = [rows_of(e[first : first + 40]) for first in range(0, len(e), 40)]
    triggers = [[(int(e.t[i]), source) for i, source in ((0, 1), (9, 2), (99, 5))]]
    for compression in (NONE, LZ4, ZSTD):
        content = encode_aedat4(events, triggers, WIDTH, HEIGHT, compression)
        packets = content.index(b"</dv>") + 6
        aims = ((14, 80), (packets, packets + 80), (packets, len(content)))
        seeds.append(Seed("aedat4", ".aedat4", content, aims, packets))
    return seeds


def _labels(folder: Path) -> list[Seed]:
    n = 40
    t = make_events(n, 10).t
    corner = np.random.default_rng(10).integers(0, 40, (n, 2)).astype(np.float32)
    save_labels(
        folder / "a.npy", Boxes.of(t, np.hstack([corner, corner + 8]), np.arange(n) % 3, None, np.arange(n) % 5)
    )
    fields = [("ts", "<u8"), ("x", "<f4"), ("y", "<f4"), ("w", "<f4"), ("h", "<f4"), ("class_id", "u1")]
    gen1 = np.zeros(n, [*fields, ("confidence", "<f4"), ("track_id", "<u4")])
    gen1["ts"], gen1["x"], gen1["y"], gen1["w"], gen1["h"] = t, corner[:, 0], corner[:, 1], 5, 6
    contents = ((folder / "a.npy").read_bytes(), saved(gen1))
    starts = [content.index(b"\n") + 1 for content in contents]
    return [
        Seed("labels", ".npy", content, array_aims(start, len(content)), start)
        for content, start in zip(contents, starts, strict=True)
    ]


def _indexed(folder: Path) -> list[Seed]:
    """Files with the index that a pass writes beside them."""
    seeds = []
    kept = index.SPACING_EVENTS, index._LEAST_WRITTEN
    index.SPACING_EVENTS, index._LEAST_WRITTEN = INDEX_EVERY, 1
    try:
        for name, format in (("a.raw", "evt3"), ("b.raw", "evt2"), ("c.dat", "dat"), ("d.csv", "csv")):
            path = folder / name
            written(path, make_events(1500, 14), format=format)
            os.utime(path, ns=(MTIME_NS, MTIME_NS))
            recording = open_recording(path, options=ReadOptions())
            for attribute, size in (("_piece_words", 200), ("_block_bytes", 1000)):
                if hasattr(recording, attribute):
                    setattr(recording, attribute, size)
            for _ in recording.chunks():
                pass
            sidecar = path.with_name(path.name + index.SUFFIX).read_bytes()
            seeds.append(Seed("index", path.suffix, path.read_bytes(), sidecar=sidecar))
    finally:
        index.SPACING_EVENTS, index._LEAST_WRITTEN = kept
    return seeds

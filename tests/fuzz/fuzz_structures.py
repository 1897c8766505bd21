"""Files made from random but well-formed structures, which changes of single bytes would hardly ever reach."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from copy import deepcopy
from random import Random
from zlib import crc32

import numpy as np

_TYPES = (
    "<i8",
    "<u8",
    ">i8",
    "<i4",
    "<u4",
    "<u2",
    ">u2",
    "<i2",
    "u1",
    "i1",
    "?",
    "<f8",
    "<f4",
    "<f2",
    ">f8",
    "<f16",
    "<c16",
    "<M8[ns]",
    "<m8[us]",
    "|O",
    "|S3",
    "<U2",
    "|V5",
    "|V1000",
    "|S0",
)
_EVENT_NAMES = (
    ("t", "x", "y", "p"),
    ("ts", "x", "y", "pol"),
    ("timestamp", "x", "y", "polarity"),
    ("t_ns", "x", "y", "on"),
    ("t_s", "col", "row", "p"),
    ("t", "t", "x", "y"),
    ("t", "x", "y", "p", "extra"),
    ("t", "x", "y"),
)
_LABEL_NAMES = (
    ("t", "x", "y", "w", "h", "class_id", "track_id", "class_confidence"),
    ("ts", "x", "y", "w", "h", "class_id", "confidence", "track_id"),
    ("t", "x", "y", "w", "h", "class_id"),
    ("t", "ts", "x", "y", "w", "h", "class_id"),
    ("x", "y", "w", "h", "class_id"),
)
_ROWS = (0, 1, 2, 3, 4, 17, 300, -1, 1 << 20, 1 << 31, 1 << 40, 1 << 62, 1 << 63, 1 << 64, 10**30)


def random_npy(random: Random, labels: bool = False) -> bytes:
    """A `.npy` of random fields, types, order and version; some claim more or less than there is, or are no events."""
    n = random.choice((0, 1, 5, 40, 40, 200))
    usual = random.random() < 0.8
    types = ("<i8", "<u8", "<u2", "<i4", "<f4", "<f8", "u1", "<i2") if usual else _TYPES
    if labels or random.random() < 0.6:
        names = random.choice(_LABEL_NAMES[:2] if usual and labels else _LABEL_NAMES if labels else _EVENT_NAMES)
        fields: list[tuple] = [(name, random.choice(types)) for name in names]
        if random.random() < 0.1:
            fields[0] = random.choice(
                ((("title", names[0]), "<i8"), (names[0], "<i8", (2,)), (names[0], [("t", "<i8")]))
            )
        if random.random() < 0.5:
            random.shuffle(fields)
        descr, body, shape = repr(fields), _rows(random, fields, n), f"({n},)"
    else:
        dtype = random.choice(types)
        columns = [_column(random, name, n) for name in random.choice(("txyp", "xypt", "xytp", "txypx"))]
        table = _as_type(np.stack(columns, axis=random.randrange(2)), dtype)
        descr, body, shape = repr(dtype), table.tobytes(), repr(table.shape)
    if random.random() < 0.2:
        shape = random.choice(_SHAPES).replace("n", str(random.choice(_ROWS)))
    fortran = "False" if random.random() < 0.8 else random.choice(("True", "True", "0", "None"))
    return npy(random, descr, shape, fortran, body)


_SHAPES = ("(n,)", "(n, 4)", "(4, n)", "()", "(n, 5)", "(2, 2, 2)", "(n)", "(n, n)", "[n]", "(1, n)")
_RANGES = {"t": 1 << 20, "x": 64, "y": 48, "p": 2, "w": 30, "h": 30, "c": 3}


def _column(random: Random, name: str, n: int) -> np.ndarray:
    """Values that the column could have, in a few cases with some that it could not."""
    numbers = np.frombuffer(random.randbytes(8 * n), np.uint64)
    values = (numbers % np.uint64(_RANGES.get(name[0], 3))).astype(np.float64)
    if name[0] == "t":
        values.sort()
        values *= random.choice((1, 1, 1, 1e-6, 1e3, 1e13))
    if n and random.random() < 0.15:
        odd = random.choice((-1, 0.5, 65536, 1e30, -1e19, float("nan"), float("inf"), 2.0**62, 2.0**63))
        values[:: random.choice((1, 2, n))] = odd
    return values


def _as_type(values: np.ndarray, dtype: str) -> np.ndarray:
    """The values, or as many random bytes, where the type holds no numbers."""
    kind = np.dtype(dtype)
    if kind.kind not in "iufb":
        return np.zeros(values.shape, np.dtype(f"V{kind.itemsize or 1}"))
    with np.errstate(all="ignore"):
        return values.astype(kind)


def _rows(random: Random, fields: list[tuple], n: int) -> bytes:
    """Structured rows; random bytes where the fields are no plain numbers."""
    if all(len(field) == 2 and isinstance(field[1], str) and field[1] in _TYPES[:15] for field in fields):
        names = [f"{i}" for i in range(len(fields))]
        rows = np.zeros(n, list(zip(names, (field[1] for field in fields), strict=True)))
        for name, (title, dtype) in zip(names, fields, strict=True):
            rows[name] = _as_type(_column(random, title, n), dtype)
        return rows.tobytes()
    return random.randbytes(n * 16 * len(fields))


def npy(random: Random, descr: str, shape: str, fortran: str, body: bytes) -> bytes:
    """The file; of a small share the version or the length of the header are wrong."""
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    version = random.choice((1, 1, 1, 2, 3, random.randrange(256))) if random.random() < 0.3 else 1
    size = struct.calcsize("<H" if version == 1 else "<I")
    text += b" " * (-(len(text) + 9 + size) % 64) + b"\n"
    length = len(text) if random.random() < 0.95 else random.choice((0, 1, len(text) - 1, len(text) + 1, 65535, 70_000))
    return b"\x93NUMPY" + bytes((version, 0)) + (length % (1 << 8 * size)).to_bytes(size, "little") + text + body


def random_npz(random: Random, members: dict[str, bytes]) -> bytes:
    """The members of an archive, some exchanged, renamed, left out or doubled, with right check sums."""
    items = list(members.items())
    for _ in range(random.randrange(1, 4)):
        i = random.randrange(len(items)) if items else 0
        choice = random.randrange(6)
        if choice == 0 and items:
            items[i] = items[i][0], random_npy(random)
        elif choice == 1 and items:
            items[i] = (
                random.choice(("t.npy", "x.npy", "width.npy", "p", "../t.npy", "a/t.npy", "ä.npy", ".npy")),
                items[i][1],
            )
        elif choice == 2 and items:
            del items[i]
        elif choice == 3:
            content = npy(
                random, random.choice(("'<i8'", "'<u2'", "'|u1'", "'<f8'")), "()", "False", random.randbytes(8)
            )
            items.append((random.choice(("width.npy", "height.npy")), content))
        elif items:
            content = bytearray(items[i][1])
            content[random.randrange(len(content))] ^= 1 << random.randrange(8) if content else 0
            items[i] = items[i][0], bytes(content)
    file = io.BytesIO()
    with zipfile.ZipFile(
        file, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    ) as archive:
        for name, content in dict(items).items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def npz_members(content: bytes) -> dict[str, bytes]:
    """The members of a whole archive; none of a broken one."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        return {}


_VALUES = (
    None,
    True,
    0,
    1,
    -1,
    5,
    1 << 31,
    1 << 40,
    1 << 62,
    1 << 63,
    -(1 << 63),
    1 << 64,
    10**30,
    0.5,
    1e300,
    "",
    "a",
    [],
    [0],
    [[]],
    {},
    {"off_sensor": 1},
    {"off_sensor": -5},
    {"off_sensor": "x"},
    {"a": []},
)


def random_sidecar(random: Random, sidecar: bytes) -> bytes:
    """An index with changed values and, mostly, a right check sum."""
    try:
        content = json.loads(sidecar)
        checkpoints = content["checkpoints"]
    except (ValueError, KeyError, TypeError):
        return sidecar
    for _ in range(random.randrange(1, 5)):
        _change(random, checkpoints)
    if random.random() < 0.1:
        _change(random, content)
    if random.random() < 0.95 and "checkpoints" in content:
        content["crc32"] = crc32(json.dumps(content["checkpoints"]).encode())
    return json.dumps(content).encode()


def _change(random: Random, node: object) -> None:
    """One value somewhere below a node."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        if not keys:
            return
        key = random.choice(keys)
        if isinstance(node[key], list | dict) and node[key] and random.random() < 0.9:
            node = node[key]
            continue
        old = node[key]
        choice = random.randrange(10)
        if choice == 0:
            del node[key]
        elif choice == 1 and isinstance(node, list):
            node.insert(key, deepcopy(random.choice(_VALUES)))
        elif choice < 6 and type(old) is int:
            node[key] = old + random.choice((-1, 1, -2, 2, -100, 100, 4096, -(1 << 24), 1 << 28, 1 << 32))
        else:
            node[key] = deepcopy(random.choice(_VALUES))
        return

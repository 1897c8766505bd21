"""Simulated data sets in the eTraM layout: scenes of traffic, made by several processes.

Station: writes what training reads. In come settings, out goes
    OUT/HDF5/<split>/<split>_<number>_td.h5             events (OUT/RAW/ and _td.raw, EVT3, if asked for)
    OUT/HDF5/<split>/<split>_<number>_bbox.npy          labels: what a person would label
    OUT/HDF5/<split>/<split>_<number>_annotations.npy   everything in the picture, rows of ANNOTATION_DTYPE
    OUT/HDF5/<split>/<split>_<number>_times.npy         the times that were annotated, empty ones too
    OUT/classes.txt                                     one class name per line; class ids count in all files
    OUT/dataset.json                                    settings, version, and facts of each scene
A scene follows from the settings, the seed, its split and its number there. Run again, it goes on where it was
interrupted: the events take their final name last, so a scene whose events are there is complete.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Protocol, Self, get_args

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from spiketrack.boxes import Boxes
from spiketrack.datasets.processes import run_jobs
from spiketrack.datasets.synthetic import SPLITS, DatasetSummary, claim_folder, split_seed, write_record
from spiketrack.errors import RecordingError
from spiketrack.recordings import LabelWriter, create_recording, load_labels, open_recording
from spiketrack.replacing import Replacement, make_folder, write_whole
from spiketrack.traffic.actors import THREE_CLASSES, THREE_OF_EIGHT, TRAFFIC_CLASSES
from spiketrack.traffic.annotations import ANNOTATION_DTYPE
from spiketrack.traffic.scene import CHUNK_US, Preset, TrafficChunk, TrafficSettings, simulate_traffic

# Raised when the same settings and seed begin to yield other scenes; part of what dataset.json must agree on.
GENERATOR = 6
MIXED = "mixed"
FORMATS = {"hdf5": ("HDF5", "_td.h5"), "raw": ("RAW", "_td.raw")}  # folder, suffix of the events

_CAMERA_STREAM, _DAYTIME_STREAM = 1, 2
_PRESETS: tuple[str, ...] = get_args(Preset)

Source = Callable[[TrafficSettings, int, Sequence[int], int], Iterator[TrafficChunk]]
Progress = Callable[[int, int, str], None]


class TrafficDatasetSettings(BaseModel):
    """A data set of simulated traffic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed; the same settings and seed give the same files")
    preset: tuple[Preset, ...] = Field(
        ("evk4",), min_length=1, description="sensors; scenes take them in turn; mixed stands for all"
    )
    camera: Literal["static", "moving", "mixed"] = Field("static", description="on a pole, in a car, or both in turn")
    daytime: Literal["day", "dusk", "night", "mixed"] = Field("mixed", description="light of the scenes")
    classes: Literal[8, 3] = Field(8, description="the eight classes of eTraM, or its three groups")
    format: Literal["hdf5", "raw"] = Field("hdf5", description="of the events: eTraM's HDF5, or RAW EVT3")
    train_scenes: int = Field(14, ge=0, le=100_000, description="number of train scenes")
    val_scenes: int = Field(3, ge=0, le=100_000, description="number of val scenes")
    test_scenes: int = Field(3, ge=0, le=100_000, description="number of test scenes")
    duration_us: int = Field(10_000_000, ge=1_000, le=86_400_000_000, description="length of a scene in microseconds")
    label_hz: float = Field(30.0, ge=0.1, le=1_000, description="label times per second")
    scene: TrafficSettings = Field(
        TrafficSettings(), description="every scene, but for preset, camera, daytime and label times"
    )

    @field_validator("preset", mode="before")
    @classmethod
    def _all_of_them(cls, value: Any) -> Any:
        names = (value,) if isinstance(value, str) else tuple(value)
        return tuple(one for name in names for one in (_PRESETS if name == MIXED else (name,)))

    @property
    def class_names(self) -> tuple[str, ...]:
        return TRAFFIC_CLASSES if self.classes == 8 else THREE_CLASSES


@dataclass(frozen=True, slots=True)
class PlannedScene:
    """One scene of a data set. name: such as train_0003; seed: of everything random in it; traffic: its settings."""

    name: str
    split: str
    seed: tuple[int, ...]
    duration_us: int
    traffic: TrafficSettings


def plan_scenes(settings: TrafficDatasetSettings) -> list[PlannedScene]:
    """All scenes in the order train, val, test: presets in turn; cameras and daytimes shuffled, in equal shares."""
    labels = settings.scene.labels.model_copy(update={"period_us": round(1e6 / settings.label_hz)})
    cameras = ("static", "moving") if settings.camera == MIXED else (settings.camera,)
    daytimes = ("day", "dusk", "night") if settings.daytime == MIXED else (settings.daytime,)
    scenes: list[PlannedScene] = []
    for split in SPLITS:
        for index in range(getattr(settings, f"{split}_scenes")):
            seed = (settings.seed, split_seed(split))
            chosen = {
                "preset": settings.preset[len(scenes) % len(settings.preset)],
                "camera": _dealt(cameras, index, (*seed, _CAMERA_STREAM)),
                "daytime": _dealt(daytimes, index, (*seed, _DAYTIME_STREAM)),
                "labels": labels,
            }
            traffic = settings.scene.model_copy(update=chosen)
            scenes.append(PlannedScene(f"{split}_{index:04d}", split, (*seed, index), settings.duration_us, traffic))
    return scenes


def _dealt(values: Sequence[str], index: int, seed: tuple[int, ...]) -> str:
    """The index-th card of decks that hold each value once, each deck shuffled anew."""
    deck, card = divmod(index, len(values))
    return values[int(np.random.default_rng([*seed, deck]).permutation(len(values))[card])]


class Watcher(Protocol):
    """Sees a scene while it is made: see(chunk) is given every chunk and says whether it wants more."""

    def see(self, chunk: TrafficChunk) -> bool: ...


class Audience(Protocol):
    """Who wants to see scenes while they are made; it travels to the processes."""

    def wants(self, name: str) -> bool:
        """Whether there is something to see of a scene that it has not seen yet."""
        ...

    def chunk_us(self, name: str) -> int | None:
        """The length of the chunks that it needs, None where any will do."""
        ...

    def watch(self, name: str, facts: str, duration_us: int) -> AbstractContextManager[Watcher]: ...


@dataclass(frozen=True, slots=True)
class _Job:
    """A scene to make. stem: its files without endings; write: whether to write them, else only to show it."""

    scene: PlannedScene
    stem: Path
    suffix: str
    classes: int
    write: bool
    audience: Audience | None
    source: Source

    @property
    def name(self) -> str:
        return self.scene.name


def simulate_traffic_dataset(
    out_dir: str | Path,
    settings: TrafficDatasetSettings | None = None,
    *,
    processes: int = 1,
    audience: Audience | None = None,
    progress: Progress | None = None,
    source: Source = simulate_traffic,
) -> DatasetSummary:
    """Write what is missing of a data set of traffic, several scenes at a time; the files do not depend on how many.

    progress(done, total, name) counts milliseconds of the scenes that are still to be made. audience: sees the scenes;
    one that is complete is simulated again for it, as far as it wants to see. source: makes the scenes, as
    `simulate_traffic` does; it must be picklable. A caller with processes > 1 needs `if __name__ == "__main__":`.

    Raises SettingsError where out_dir holds another data set; RecordingError where the disk is full or a process was
    killed, naming the scene. Whatever ends it, no file is left half-written under its name and no process running.
    """
    settings = settings or TrafficDatasetSettings()
    folder = Path(out_dir)
    kind, suffix = FORMATS[settings.format]
    names = list(settings.class_names)
    identity = {"kind": "traffic", "generator": GENERATOR, "settings": settings.model_dump(mode="json")}
    record = claim_folder(folder, {**identity, "class_names": names})
    write_whole(folder / "classes.txt", "".join(f"{name}\n" for name in names), RecordingError)
    known, facts = record.get("scenes", {}), {}
    jobs: list[_Job] = []
    for scene in plan_scenes(settings):
        stem = folder / kind / scene.split / scene.name
        complete = all(Path(f"{stem}{ending}").is_file() for ending in (suffix, *_ENDINGS))
        facts[scene.name] = (known.get(scene.name) or _facts_of(scene, stem, suffix)) if complete else None
        if not complete or (audience is not None and audience.wants(scene.name)):
            jobs.append(_Job(scene, stem, suffix, settings.classes, not complete, audience, source))
    tally = _Tally(folder, record, facts, jobs, progress)
    if processes > 1:
        jobs.sort(key=_effort, reverse=True)  # a long scene begun last would keep the others waiting
    try:
        run_jobs(_make, jobs, processes, tally.finished, tally.reached)
    except BaseException:
        for job in jobs:  # a process that is killed, or stopped while it opens a file, cannot clean up
            _remove_leftovers(job.stem)
        raise
    tally.save()
    return tally.summary()


def _effort(job: _Job) -> int:
    """How long a scene takes, roughly, in an unknown unit: a moving camera draws every pixel of every frame."""
    traffic = job.scene.traffic
    return traffic.sensor.width * traffic.sensor.height * (4 if traffic.camera == "moving" else 1)


_ENDINGS = ("_bbox.npy", "_annotations.npy", "_times.npy")


class _Tally:
    """What is made so far, told to dataset.json and to the one who watches the progress."""

    def __init__(
        self,
        folder: Path,
        record: dict[str, Any],
        facts: dict[str, Any],
        jobs: list[_Job],
        progress: Progress | None,
    ) -> None:
        self._folder, self._record, self._facts, self._progress = folder, record, facts, progress
        self._written = [job.name for job in jobs if job.write]
        self._reached_us = {job.name: 0 for job in jobs}
        self._total_ms = sum(job.scene.duration_us for job in jobs) // 1000
        self._made: dict[str, Any] = {}

    def reached(self, job: _Job, t_us: int) -> None:
        """A scene has come to t_us."""
        self._reached_us[job.name] = t_us
        if self._progress:
            self._progress(sum(self._reached_us.values()) // 1000, self._total_ms, job.name)

    def finished(self, job: _Job, made: dict[str, Any] | None) -> None:
        if made is not None:
            self._made[job.name] = self._facts[job.name] = made
            self.save()
        self.reached(job, job.scene.duration_us)

    def save(self) -> None:
        scenes = {name: facts for name, facts in self._facts.items() if facts is not None}
        if scenes != self._record.get("scenes"):
            self._record["scenes"] = scenes
            write_record(self._folder, self._record)

    def summary(self) -> DatasetSummary:
        sums = (sum(made[key] for made in self._made.values()) for key in ("events", "labels", "tracks"))
        return DatasetSummary(self._folder, len(self._made), len(self._facts) - len(self._made), *sums)


def _make(job: _Job, report: Callable[[int], None]) -> dict[str, Any] | None:
    """Make one scene, perhaps in a process of its own; returns its facts, None if it was only shown."""
    started = time.monotonic()
    scene = job.scene
    audience = job.audience if job.audience is not None and job.audience.wants(scene.name) else None
    with ExitStack() as stack:
        watcher = scribe = None
        if audience is not None:
            facts = f"{scene.traffic.preset}, {scene.traffic.daytime}, {scene.traffic.camera} camera"
            watcher = stack.enter_context(audience.watch(scene.name, facts, scene.duration_us))
        if job.write:
            scribe = stack.enter_context(_Scribe(job))
        chunk_us = (audience.chunk_us(scene.name) if audience is not None else None) or CHUNK_US
        for chunk in job.source(scene.traffic, scene.duration_us, scene.seed, chunk_us):
            if job.classes == len(THREE_CLASSES):
                chunk = _in_three_classes(chunk)
            if scribe is not None:
                scribe.append(chunk)
            if watcher is not None and not watcher.see(chunk):
                watcher = None
            if watcher is None and scribe is None:
                break
            report(chunk.end_us)
    return None if scribe is None else scribe.facts(time.monotonic() - started)


def _in_three_classes(chunk: TrafficChunk) -> TrafficChunk:
    three, labels = np.array(THREE_OF_EIGHT, np.int32), chunk.labels
    annotations = chunk.annotations.copy()
    annotations["class_id"] = three[annotations["class_id"]]
    boxes = Boxes(labels.t, labels.xyxy, three[labels.class_id], labels.score, labels.track_id)
    return chunk._replace(labels=boxes, annotations=annotations)


class _Scribe:
    """Writes one scene; the events take their final name last."""

    def __init__(self, job: _Job) -> None:
        self._job, self._stack = job, ExitStack()
        self._events = self._labels = 0
        self._tracks: set[int] = set()

    def __enter__(self) -> Self:
        job, stem, sensor = self._job, self._job.stem, self._job.scene.traffic.sensor
        make_folder(stem.parent)
        _remove_leftovers(stem)
        with ExitStack() as stack:  # left in reverse order
            self._writer = stack.enter_context(
                create_recording(Path(f"{stem}{job.suffix}"), sensor.width, sensor.height)
            )
            self._rows = stack.enter_context(_RowWriter(Path(f"{stem}_annotations.npy"), ANNOTATION_DTYPE))
            self._boxes = stack.enter_context(LabelWriter(Path(f"{stem}_bbox.npy")))
            write_whole(Path(f"{stem}_times.npy"), _label_times(job.scene), RecordingError)
            self._stack = stack.pop_all()
        return self

    def append(self, chunk: TrafficChunk) -> None:
        self._writer.append(chunk.events)
        self._boxes.append(chunk.labels)
        self._rows.append(chunk.annotations)
        self._events += len(chunk.events)
        self._labels += len(chunk.labels)
        self._tracks.update(chunk.labels.track_id.tolist())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def facts(self, seconds: float) -> dict[str, Any]:
        counts = {"events": self._events, "labels": self._labels, "tracks": len(self._tracks)}
        return {**_plan_facts(self._job.scene), **counts, "seconds": round(seconds, 3)}


def _plan_facts(scene: PlannedScene) -> dict[str, Any]:
    return {name: getattr(scene.traffic, name) for name in ("preset", "camera", "daytime")}


def _facts_of(scene: PlannedScene, stem: Path, suffix: str) -> dict[str, Any]:
    """The facts of a complete scene that dataset.json does not know, as it was ended just before."""
    events = sum(len(chunk) for chunk in open_recording(Path(f"{stem}{suffix}")).chunks())
    labels, _ = load_labels(Path(f"{stem}_bbox.npy"))
    counts = {"events": events, "labels": len(labels), "tracks": len(np.unique(labels.track_id))}
    return {**_plan_facts(scene), **counts, "seconds": None}


def _label_times(scene: PlannedScene) -> bytes:
    """A .npy file of all label times of a scene."""
    period_us = scene.traffic.label_period_us
    file = io.BytesIO()
    np.save(file, np.arange(period_us, scene.duration_us, period_us, dtype=np.int64))
    return file.getvalue()


def _remove_leftovers(stem: Path) -> None:
    """Remove the temporary files of a scene that nobody is writing."""
    for path in stem.parent.glob(f".{stem.name}_*.tmp"):
        with suppress(OSError):
            path.unlink()


class _RowWriter:
    """Stream structured rows into a `.npy` file that appears only when it is complete."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self._path, self._dtype, self._count = path, dtype, 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._replacement = Replacement(self._path)
        try:
            self._file = open(self._replacement.temporary, "xb")
            self._write_header(self._file)
        except OSError as error:
            self._abandon()
            raise self._failed(error) from error
        return self

    def append(self, rows: NDArray[Any]) -> None:
        assert self._file is not None
        try:
            self._file.write(rows.astype(self._dtype, copy=False).tobytes())
        except OSError as error:
            raise self._failed(error) from error
        self._count += len(rows)

    def _write_header(self, file: BinaryIO) -> None:
        # NumPy leaves room for a longer first axis, so that the header keeps its length
        shape = {"descr": dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._count,)}
        write_array_header_1_0(file, shape)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._file is not None:
                self._file.seek(0)
                self._write_header(self._file)
                self._file.close()
                self._replacement.commit()
        except OSError as failure:
            raise self._failed(failure) from failure
        finally:
            self._abandon()

    def _abandon(self) -> None:
        file, self._file = self._file, None
        with suppress(OSError):
            if file is not None:
                file.close()
        with suppress(OSError):
            self._replacement.discard()

    def _failed(self, error: OSError) -> RecordingError:
        return RecordingError(f"{self._path}: cannot be written: {error.strerror or error}")

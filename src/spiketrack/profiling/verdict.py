"""Verdict: what bounds a step, from its stations, the stacks seen in them, the trace and the probes.

Station: in comes what was measured, out goes the step cut into parts, each with what bounds it. The parts add up to the
step; the bound of the step is the one with most seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from spiketrack.profiling.measuring import Measurement
from spiketrack.profiling.probing import Probes
from spiketrack.profiling.sampling import StackTime
from spiketrack.profiling.tracing import Trace

Bound = Literal["storage", "CPU", "copy", "compute", "memory", "Python"]

MEANING: dict[str, str] = {
    "storage": "the step waits for files to be read",
    "CPU": "the step waits for the processor to decode, count or assign",
    "copy": "batches on their way to the device",
    "compute": "convolutions and matrix products",
    "memory": "tensors on their way between memory and processor: neurons, norms, updates",
    "Python": "what a call costs whatever it computes: small tensors, numbers read one by one, sleeps, logging",
}
assert tuple(MEANING) == get_args(Bound)

COUNTING = "waiting for events to be counted"
_TARGETS = ("detector/targets.py", "target_kernels.py", "target_pairs.py", "ssd_match.py", "heatmaps.py")
_READING = (
    *("spiketrack/recordings/", "spiketrack/filters/", "h5py/"),
    *("datasets/cache.py", "datasets/disk_cache.py", "datasets/event_file.py"),
)
_ENCODING = ("spiketrack/representations/", "datasets/augment.py")
_LOADER = "spiketrack/datasets/"
_FIRST_READ = "cache.py:EventCache._load"
_MANY_READS = 50  # numbers that a loss may take from the device in a step
_KERNEL = 0.25  # of the time of this process in the kernel, from which on its pages are to blame


class Part(NamedTuple):
    """Seconds of a step and what bounds them. station: as measured. what: in words. where: the busiest function."""

    station: str
    what: str
    bound: Bound
    seconds: float
    where: str = ""


@dataclass(frozen=True)
class Verdict:
    """parts: of the mean step, largest first. once: seconds a step of first reads into the cache, which end with the
    first epoch and belong to no part. loading: seconds a step of the threads that load, by what they did."""

    parts: list[Part]
    once: float
    loading: dict[str, float]

    @property
    def seconds(self) -> float:
        """Of a step, without what happens once."""
        return sum(part.seconds for part in self.parts)

    @property
    def bounds(self) -> dict[Bound, float]:
        """Share of the step that each bound has, largest first."""
        sums: dict[Bound, float] = {}
        for part in self.parts:
            sums[part.bound] = sums.get(part.bound, 0.0) + part.seconds
        whole = self.seconds or 1.0
        return {bound: value / whole for bound, value in sorted(sums.items(), key=lambda item: -item[1])}

    @property
    def bound(self) -> Bound:
        return next(iter(self.bounds))

    @property
    def worst(self) -> Part:
        """The largest part of what bounds the step."""
        return next(part for part in self.parts if part.bound == self.bound)

    def share(self, *stations: str) -> float:
        """Of the step, in these stations."""
        return sum(part.seconds for part in self.parts if part.station in stations) / (self.seconds or 1.0)

    @property
    def sentence(self) -> str:
        worst = self.worst
        where = f", most of it in {worst.where}" if worst.where else ""
        return (
            f"The step is bound by {self.bound} ({self.bounds[self.bound]:.0%} of it: {MEANING[self.bound]}). "
            f"Largest part: {worst.what}, {worst.seconds / (self.seconds or 1.0):.0%}{where}."
        )


def judge(measured: Measurement, probes: Probes) -> Verdict:
    """Cut the mean step of a run that was traced too into parts."""
    trace = measured.trace
    assert trace is not None, "the first run is traced"
    parts: list[Part] = []
    once = 0.0
    loading: dict[str, float] = {}
    for station in measured.stations:
        seconds = measured.of(station)
        if station == "waiting":
            waits, once = _waits(seconds, measured)
            parts += waits
            loading = _loading(measured)
        elif station in ("forward", "backward", "network"):
            parts += _network(station, seconds, measured, trace, probes)
        elif station == "loss":
            parts += _loss(seconds, measured, trace)
        elif station == "reading":
            parts += _split_waits(station, seconds, _main(measured, station))
        else:
            parts.append(_simple(station, seconds, measured))
    return Verdict(sorted((part for part in parts if part.seconds > 0), key=lambda part: -part.seconds), once, loading)


def _loading(measured: Measurement) -> dict[str, float]:
    """Seconds a step of the loading threads, by what they did, whether the step waited or not."""
    sums: dict[str, float] = {}
    for stack in measured.stacks:
        if _loads(stack):
            sums[_kind(stack)] = sums.get(_kind(stack), 0.0) + stack.seconds / len(measured.rows)
    return sums


def _loads(stack: StackTime) -> bool:
    """Whether it is of a thread that makes batches; others draw the progress line."""
    return not stack.main and any(_LOADER in frame for frame in stack.frames)


def _kind(stack: StackTime) -> str:
    """What a loading thread does, by the innermost function that tells."""
    for frame in reversed(stack.frames):
        if any(place in frame for place in _READING):
            return "first read" if any(_FIRST_READ in other for other in stack.frames) else "reading"
        if any(place in frame for place in _ENCODING):
            return "encoding"
    return "batching"


def _waits(seconds: float, measured: Measurement) -> tuple[list[Part], float]:
    """What the step waited for is what the loading threads did meanwhile."""
    meanwhile = [stack for stack in measured.stacks if _loads(stack) and stack.station == "waiting"]
    whole = sum(stack.seconds for stack in meanwhile)
    if not whole:  # nobody loads in this process: other processes do, or there was nothing to see
        bound: Bound = "CPU" if measured.usage.children > 0.5 else "storage"
        words = "waiting for batches that other processes make" if measured.usage.children else "waiting for batches"
        return [Part("waiting", words, bound, seconds)], 0.0
    parts, once = [], 0.0
    for kind in ("reading", "encoding", "batching", "first read"):
        stacks = [stack for stack in meanwhile if _kind(stack) == kind]
        share = seconds * sum(stack.seconds for stack in stacks) / whole
        if kind == "first read":
            once = share
        elif kind == "reading":
            parts += _split_waits("waiting", share, stacks)
        else:
            words = {"encoding": COUNTING, "batching": "waiting for batches to be made"}
            parts.append(Part("waiting", words[kind], "CPU", share, _busiest(stacks)))
    return parts, once


def _split_waits(station: str, seconds: float, stacks: list[StackTime]) -> list[Part]:
    """Reading is waiting for storage, and decoding what came."""
    idle, where = _waited(stacks), _busiest(stacks)
    return [
        Part(station, "reading from storage", "storage", seconds * idle, where),
        Part(station, "decoding events", "CPU", seconds * (1 - idle), where),
    ]


def _network(station: str, seconds: float, measured: Measurement, trace: Trace, probes: Probes) -> list[Part]:
    """A fixed price of every call; the rest by what the operations do."""
    idle = _waited(_main(measured, station)) if measured.device.startswith("cpu") else 0.0
    fixed = max(probes.overhead, idle if idle > 0.5 else 0.0)
    arithmetic = trace.arithmetic([station])
    kernel = measured.usage.system / measured.usage.cores if measured.usage.cores else 0.0
    pages = kernel if kernel > _KERNEL else 0.0  # nobody asked the kernel for anything but pages
    rest = seconds * (1 - fixed)
    where = _busiest(_main(measured, station)) if idle > 0.5 else ""
    return [
        Part(station, f"{station}: calls of small operations", "Python", seconds * fixed, where),
        Part(station, f"{station}: convolutions, products", "compute", rest * arithmetic * (1 - pages)),
        Part(station, f"{station}: neurons, norms, copies", "memory", rest * (1 - arithmetic) * (1 - pages)),
        Part(station, f"{station}: fresh pages", "memory", rest * pages),
    ]


def _loss(seconds: float, measured: Measurement, trace: Trace) -> list[Part]:
    stacks = _main(measured, "loss")
    assigning = [stack for stack in stacks if any(place in frame for frame in stack.frames for place in _TARGETS)]
    whole = sum(stack.seconds for stack in stacks) or 1.0
    targets = seconds * sum(stack.seconds for stack in assigning) / whole
    waits = _waited(stacks) > 0.5
    bound: Bound = "Python" if waits or trace.reads("loss") >= _MANY_READS else "compute"
    words = "loss"
    if waits:
        words = "loss: waits without computing"
    elif bound == "Python":
        words = f"loss: reads {trace.reads('loss'):.0f} numbers one by one"
    return [
        Part("targets", "target generation", "CPU", targets, _busiest(assigning)),
        Part("loss", words, bound, seconds - targets, _busiest(stacks)),
    ]


_SIMPLE: dict[str, tuple[str, Bound]] = {
    "copy": ("batch to the device", "copy"),
    "optimizer": ("clipping and update", "memory"),
    "bookkeeping": ("averaged weights, sums, checkpoints", "Python"),
    "logging": ("logging", "Python"),
    "encoding": ("counting events", "CPU"),
    "decoding": ("reading boxes, suppressing doubles", "CPU"),
    "tracking": ("tracking", "CPU"),
}


def _simple(station: str, seconds: float, measured: Measurement) -> Part:
    what, bound = _SIMPLE[station]
    return Part(station, what, bound, seconds, _busiest(_main(measured, station)))


def _main(measured: Measurement, station: str) -> list[StackTime]:
    return [stack for stack in measured.stacks if stack.main and stack.station == station]


def _waited(stacks: list[StackTime]) -> float:
    """Share of the time without the processor."""
    whole = sum(stack.seconds for stack in stacks)
    return sum(stack.waited for stack in stacks) / whole if whole else 0.0


def _busiest(stacks: list[StackTime]) -> str:
    """The innermost function with most of the time."""
    sums: dict[str, float] = {}
    for stack in stacks:
        sums[stack.place] = sums.get(stack.place, 0.0) + stack.seconds
    return max(sums, key=sums.__getitem__, default="")

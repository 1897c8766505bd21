"""Disk cache: recordings decoded and filtered once, kept in a folder, for this run and all that follow.

Station: between a recording and everything that reads its events again and again. `DiskCache.open` gives a recording
that is read from the folder (`event_file`) and is otherwise like its source. Several threads, processes and machines
may share a folder: a file appears whole or not at all, and each is made by one of them while the others wait for it.
What a file says of its source (path, size, time of modification, way of reading, filters) must be true, else it is made
anew, and counted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from spiketrack.datasets.event_file import EventFile, UnusableError, write_events
from spiketrack.errors import RecordingError
from spiketrack.events import Events, Triggers, Window
from spiketrack.filters import FilteredRecording
from spiketrack.recordings import Recording
from spiketrack.recordings.recording import FileRecording

SUFFIX = ".events"
DECODING = 1
"""To be raised where a decoder or a filter gives other events than before for the same file and settings."""

_RUN_EVENTS = 1 << 18
_ATTEMPTS = 3
_REPORT_S = 10.0  # between two lines of the log
_T = TypeVar("_T")
log = logging.getLogger(__name__)

OnBuild = Callable[[int, int, str], None]
"""(recordings that are done, of how many, which one is decoded and how far it is)"""


class DiskCache:
    """A folder of decoded recordings.

    built: files that this object made. rebuilt: how many of them took the place of one that could not be used, by kind:
    "other" (of a source that has changed since, or of another way of reading) or "damaged".
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.built = 0
        self.rebuilt: Counter[str] = Counter()

    def open(self, recording: Recording) -> CachedRecording:
        """The same recording, read from the folder; decoded into it where it is not there yet.

        Raises RecordingError where the source cannot be read, or the folder cannot be written to.
        """
        return CachedRecording(recording, self)

    def fill(
        self, recordings: Sequence[Recording], first: int = 0, on_build: OnBuild = lambda done, total, name: None
    ) -> None:
        """Decode every recording that is not there yet, beginning with number `first`.

        Processes that share the work begin at different ones: what another process is at is left to it, and waited for
        at the end.
        """
        missing = [r for r in (*recordings[first:], *recordings[:first]) if not self._holds(r)]
        if missing:
            log.info("%s: %d of %d recordings are yet to be decoded", self.folder, len(missing), len(recordings))
        busy: list[Recording] = []
        done = len(recordings) - len(missing)

        def told(recording: Recording) -> Callable[[int], None]:
            name = recording.path.name
            return lambda count: on_build(done, len(recordings), f"{name}, {count:,} events")

        for waits, left in ((False, missing), (True, busy)):
            for recording in left:
                made = self.make(recording, waits=waits, on_events=told(recording))
                if made is None:
                    busy.append(recording)
                else:
                    done += 1
                    on_build(done, len(recordings), recording.path.name)

    def make(
        self,
        recording: Recording,
        *,
        instead_of: EventFile | None = None,
        waits: bool = True,
        on_events: Callable[[int], None] = lambda count: None,
    ) -> EventFile | None:
        """The file of a recording, made where there is none that can be used, or none but `instead_of`.

        None where another process is about to make it and this one does not wait.
        """
        key = key_of(recording)
        path = self._place(recording, key)
        with self._claimed(path.with_name(f".{path.name}.part"), waits) as part:
            if part is None:
                return None
            try:
                found = EventFile(path, key)
                if instead_of is None or found.identity != instead_of.identity:
                    return found
                why = UnusableError("damaged", "damaged")
            except UnusableError as error:
                why = error
            if why.kind != "missing":
                self.rebuilt[why.kind] += 1
                log.warning("%s: %s; it is made anew (%d so far)", path, why, self.rebuilt.total())
            self._write(part, path, recording, key, on_events)
            return EventFile(path, key)

    def find(self, recording: Recording) -> EventFile:
        """The file of a recording, made where there is none that can be used."""
        key = key_of(recording)
        with suppress(UnusableError):
            return EventFile(self._place(recording, key), key)
        file = self.make(recording)
        assert file is not None, "it was waited for"
        return file

    def _holds(self, recording: Recording) -> bool:
        key = key_of(recording)
        try:
            EventFile(self._place(recording, key), key)
        except UnusableError:
            return False
        return True

    def _place(self, recording: Recording, key: dict[str, Any]) -> Path:
        """One file for each source and way of reading, also where the source changes."""
        way = {name: value for name, value in key.items() if name not in ("size", "mtime_ns", "decoding")}
        digest = hashlib.sha256(json.dumps(way, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{recording.path.name[:100]}.{digest}{SUFFIX}"

    @contextmanager
    def _claimed(self, path: Path, waits: bool) -> Generator[IO[bytes] | None]:
        """The unfinished file of that name, locked; it is gone at the end. None where another has it."""
        with self._writable():
            self.folder.mkdir(parents=True, exist_ok=True)
            file = _locked(path, waits)
        if file is None:
            yield None
            return
        try:
            yield file
        finally:
            with suppress(OSError):
                if os.path.samestat(os.stat(path), os.fstat(file.fileno())):  # else it was renamed
                    path.unlink()
            with suppress(OSError):  # of what could not be written, which was told
                file.close()

    def _write(
        self, part: IO[bytes], path: Path, recording: Recording, key: dict[str, Any], on_events: Callable[[int], None]
    ) -> None:
        began = told = time.monotonic()

        def on_some(count: int) -> None:
            nonlocal told
            on_events(count)
            if time.monotonic() - told > _REPORT_S:
                told = time.monotonic()
                log.info("%s: %s events decoded in %.0f s", recording.path, f"{count:,}", told - began)

        with self._writable():
            part.truncate(0)  # what a process that was killed has left
            write_events(part, recording, key, on_some)
            part.flush()
            os.fsync(part.fileno())
            if key_of(recording) != key:
                raise RecordingError(f"{recording.path}: changes while it is decoded; run again when it is finished")
            os.replace(part.name, path)
        self.built += 1

    @contextmanager
    def _writable(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise RecordingError(
                f"data.cache_dir {self.folder}: decoded events cannot be written there ({error.strerror or error}); "
                "make space (8 bytes an event are needed) or name another folder"
            ) from error


class CachedRecording(Recording):
    """A recording whose events lie in a disk cache. What the file counted when it was made stands in invalid, repaired
    and first_invalid; triggers come from the source."""

    def __init__(self, source: Recording, cache: DiskCache) -> None:
        super().__init__(source.path, source.format, source.width, source.height)
        self.source, self._cache = source, cache
        self._take(cache.find(source))

    def read(self, start_us: int, end_us: int) -> Window:
        """See Recording."""
        return self._from_file(lambda file: file.window(start_us, end_us))

    def chunks(self, start_us: int | None = None) -> Iterator[Events]:
        """See Recording."""
        row = 0 if start_us is None else self._from_file(lambda file: file.first_row(start_us))
        while row < self._file.count:
            last = min(row + _RUN_EVENTS, self._file.count)
            yield self._from_file(lambda file, first=row, last=last: file.events(first, last))
            row = last

    def chunks_with_triggers(self, start_us: int | None = None) -> Iterator[tuple[Events, Triggers]]:
        """See Recording; decodes the source, as the cache holds no triggers."""
        return self.source.chunks_with_triggers(start_us)

    def _take(self, file: EventFile) -> None:
        self._file = file
        self.invalid, self.repaired, self.first_invalid = file.invalid, file.repaired, file.first_invalid

    def _from_file(self, get: Callable[[EventFile], _T]) -> _T:
        """What the file gives, or the one that has replaced it since, or one that is made instead of a broken one."""
        for _ in range(_ATTEMPTS):
            try:
                return get(self._file)
            except UnusableError as error:
                why = error
                log.info("%s: %s", self._file.path, error)
            made = self._cache.make(self.source, instead_of=self._file)
            assert made is not None, "it was waited for"
            self._take(made)
        raise RecordingError(
            f"{self._file.path}: {why}, and to make it anew does not help; is the disk broken? Name another folder "
            "with data.cache_dir"
        ) from why


def key_of(recording: Recording) -> dict[str, Any]:
    """What the events of a recording follow from, as JSON gives it back. Raises RecordingError without the file."""
    if isinstance(recording, FilteredRecording):
        settings = recording.settings
        masks = [mask for mask in (settings.region.mask, settings.hot_pixels.mask) if mask is not None]
        digests = [hashlib.sha256(mask.read_bytes()).hexdigest() for mask in masks]
        return {**key_of(recording.source), "filters": settings.model_dump(mode="json"), "masks": digests}
    assert isinstance(recording, FileRecording), recording
    path = recording.path.resolve()
    try:
        status = path.stat()
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error
    return {
        "decoding": DECODING,
        "path": str(path),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "format": recording.format,
        "width": recording.width,
        "height": recording.height,
        "on_invalid": recording.options.on_invalid,
    }


def _locked(path: Path, waits: bool) -> IO[bytes] | None:
    """A file of that name that nobody else has; made where there is none."""
    while True:
        file = open(path, "a+b", buffering=1 << 20)  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            # while it was waited for, it may have been finished and renamed, or given up
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        except OSError:
            file.close()
            raise
        file.close()

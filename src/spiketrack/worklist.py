"""Work list: many pieces of work, shared by processes of one or several machines through a folder that all can write.

Station: of `spiketrack track DIR`. In come a folder and the names of the pieces; out comes one folder of results for
each, `<name>_tracks`, whole or not at all, whoever dies. There is no server and no lock that a dead process can hold:

* A piece is done when its folder of results is there. It is made under another name and then renamed, which the file
  system does at once, and only for the first who tries.
* A worker claims a piece by making the file `<key>.<n>`, which succeeds for one worker. While it works it touches the
  file. A claim whose owner is dead is not removed; claim n + 1 takes its place, which again one worker can make.
* The owner is dead where it was a process of this machine that is no more, or where its file was not touched for
  `patience_s` by the clock of the one who waits: the clocks of two machines are never compared.
* `<key>.<n>.ended` says that the owner of claim n has let go: empty, of the piece for another worker; with a text, of
  a piece that failed. A piece at which LIVES workers died in a row has failed, too.

A worker that was only thought dead cannot harm: the second result of a piece finds the first in its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from spiketrack.errors import SettingsError, SpiketrackError, WorkListError
from spiketrack.replacing import write_whole

LIVES = 3
FOLDER = ".work"  # of claims, and of results that are not whole
SETTINGS = "settings.json"


class Outcome(NamedTuple):
    """How far a list is. failed: why, by name. open: names that are not done and have not failed."""

    done: list[str]
    failed: dict[str, str]
    open: list[str]


class WorkList:
    """Pieces of work with results in `folder`. Every worker has its own WorkList, with the same names.

        for claim in WorkList(folder, names, settings).claims():
            with claim as results:
                ...  # write files into the folder `results`

    names: relative paths. settings: what results depend on; the first worker writes them down. beat_s: seconds between
    touches of a claim. SettingsError: the folder holds results of other settings.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        settings: Mapping[str, object],
        *,
        beat_s: float = 10.0,
        patience_s: float = 120.0,
    ) -> None:
        self.folder, self.names = folder, list(names)
        self.beat_s, self.patience_s = beat_s, patience_s
        self._claims = folder / FOLDER
        self._seen: dict[str, tuple[int, float]] = {}  # of a claim: when it was touched, and when that was noticed
        _begin(self._claims, settings)

    def claims(self, poll_s: float = 1.0) -> Iterator[Claim]:
        """Pieces for this worker, until every piece of the list is done or has failed, here or elsewhere."""
        while left := [name for name in self.names if not self.result(name).exists()]:
            claim = waiting = None
            claimed = self._latest()
            for name in left:
                number, state = self._state(name, claimed)
                if state == "free" and (claim := self._claim(name, number + 1)):
                    break
                waiting = waiting or state in ("free", "taken")
            if claim is not None:
                yield claim
            elif waiting:
                time.sleep(poll_s)
            else:
                return

    def result(self, name: str) -> Path:
        """The folder that a piece's results appear in."""
        return self.folder / f"{name}_tracks"

    def give_failed_another_chance(self) -> None:
        """Make pieces that have failed free again; for who starts the workers, not for each of them."""
        claimed = self._latest()
        for name in self.names:
            number, state = self._state(name, claimed)
            if state not in ("free", "taken") and (claim := self._claim(name, number + 1)):
                claim.let_go()

    def outcome(self) -> Outcome:
        """How far the list is now."""
        claimed = self._latest()
        done = [name for name in self.names if self.result(name).exists()]
        states = {name: self._state(name, claimed)[1] for name in self.names if name not in set(done)}
        failed = {name: state for name, state in states.items() if state not in ("free", "taken")}
        return Outcome(done, failed, [name for name in states if name not in failed])

    def _latest(self) -> dict[str, int]:
        """The number of the last claim of every piece, by key."""
        latest: dict[str, int] = {}
        for entry in os.scandir(self._claims):
            key, _, number = entry.name.rpartition(".")
            if number.isdecimal():
                latest[key] = max(latest.get(key, 0), int(number))
        return latest

    def _state(self, name: str, latest: Mapping[str, int]) -> tuple[int, str]:
        """The number of a piece's last claim (0: none), and "free", "taken", or why it has failed."""
        key = _key(name)
        number = latest.get(key, 0)
        lost = 0
        while lost < min(number, LIVES):
            path = self._claims / f"{key}.{number - lost}"
            with suppress(FileNotFoundError):
                said = path.with_name(f"{path.name}.ended").read_text(encoding="utf-8")
                return number, said if lost == 0 and said else "free"
            if lost == 0 and self._lives(path):
                return number, "taken"
            lost += 1
        return number, f"{LIVES} workers died at it" if lost == LIVES else "free"

    def _lives(self, claim: Path) -> bool:
        """Whether the owner of a claim still works, as far as can be known."""
        try:
            with claim.open(encoding="utf-8") as file:  # to open a file asks a network file system for news of it
                touched, owner = os.fstat(file.fileno()).st_mtime_ns, file.read()
        except OSError as error:
            raise WorkListError(f"{claim}: cannot be read ({error.strerror})") from error
        with suppress(ValueError):  # of a claim that has not been written yet
            machine, pid, began = json.loads(owner)
            if machine is not None and machine == _machine():
                return _began(pid) == began
        now = time.monotonic()
        before, noticed = self._seen.setdefault(claim.name, (touched, now))
        if touched != before:
            self._seen[claim.name] = touched, now
            return True
        return now - noticed < self.patience_s

    def _claim(self, name: str, number: int) -> Claim | None:
        """Claim `number` of a piece; None where another worker was quicker."""
        path = self._claims / f"{_key(name)}.{number}"
        owner = json.dumps([_machine(), os.getpid(), _began(os.getpid())])
        try:
            with path.open("x", encoding="utf-8") as file:  # O_EXCL
                file.write(owner)
        except FileExistsError:
            return None
        except OSError as error:
            raise WorkListError(f"{path}: cannot be written ({error.strerror})") from error
        claim = Claim(name, path, self.result(name), self.beat_s)
        if self.result(name).exists():  # made since this worker looked
            claim.let_go()
            return None
        return claim


class Claim:
    """One piece of work that is this worker's: `with claim as folder` gives the folder to write its results into.

    At the end of the block the folder takes its place among the results. A SpiketrackError in the block is written
    down as the reason why the piece has failed, and goes no further. After anything else, such as Ctrl-C, the piece is
    given back. published: whether the results of this block are the ones that count.
    """

    def __init__(self, name: str, path: Path, result: Path, beat_s: float) -> None:
        self.name, self.path, self.result, self._beat_s = name, path, result, beat_s
        self.published = False
        self.reason = ""  # why the piece has failed
        self._workspace = path.with_name(f"{path.name}.results")
        self._over = threading.Event()
        self._pulse = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Path:
        self._pulse.start()
        for left in self.path.parent.glob(f"{self.path.name.rpartition('.')[0]}.*.results"):
            shutil.rmtree(left, ignore_errors=True)  # of workers that died
        self._workspace.mkdir(parents=True)
        return self._workspace

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            if error is None:
                self._publish()
            elif isinstance(error, SpiketrackError):
                self.reason = str(error)
            return error is None or bool(self.reason)
        finally:
            self._over.set()
            self._pulse.join()
            shutil.rmtree(self._workspace, ignore_errors=True)
            self.let_go(self.reason)

    def let_go(self, reason: str = "") -> None:
        """Give the piece back, or say why it has failed."""
        write_whole(self.path.with_name(f"{self.path.name}.ended"), reason, WorkListError)

    def _publish(self) -> None:
        try:
            self.result.parent.mkdir(parents=True, exist_ok=True)
            os.rename(self._workspace, self.result)
        except OSError as error:
            # where either is otherwise, another worker thought this one dead, and took over
            if self._workspace.exists() and not self.result.exists():
                raise WorkListError(f"{self.result}: cannot be made ({error.strerror})") from error
        else:
            self.published = True

    def _beat(self) -> None:
        while not self._over.wait(self._beat_s):
            with suppress(OSError):  # a server that is away for a while: others wait for patience_s
                os.utime(self.path)


def _begin(folder: Path, settings: Mapping[str, object]) -> None:
    """Make the folder of claims, with the settings in it, or see that it is of the same ones."""
    path, text = folder / SETTINGS, json.dumps(settings, indent=1, sort_keys=True)
    if not folder.exists():
        own = folder.with_name(f"{FOLDER}.{secrets.token_hex(8)}")
        write_whole(own / SETTINGS, text, WorkListError)
        try:
            os.rename(own, folder)  # with its content at once; fails where another worker has done it
        except OSError:
            shutil.rmtree(own, ignore_errors=True)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkListError(f"{path}: cannot be read ({error}); take another folder, or remove {folder}") from error
    wanted = json.loads(text)
    differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if differing:
        said = ", ".join(f"{key} {found.get(key)!r} instead of {wanted.get(key)!r}" for key in differing)
        raise SettingsError(f"{folder.parent} holds results of other settings ({said}); take another --out")


def _key(name: str) -> str:
    """What the files of a piece begin with: readable, without separators, of bounded length, different for each."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', Path(name).name)[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _machine() -> str | None:
    """What tells apart where process numbers mean the same process; None: unknown, ask no process number."""
    if sys.platform != "linux":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _began(pid: int) -> str | None:
    """When a process of this machine began, in its own unit; None where it is no more. Numbers are used again."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else numbers[18]

"""Many recordings: `spiketrack track DIR`, by several processes of one or several machines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from spiketrack.errors import SettingsError
from spiketrack.launching import is_worker, keep_at_work, leave_with_launcher
from spiketrack.worklist import LIVES, WorkList

SUFFIXES = (".raw", ".dat", ".h5", ".hdf5", ".aedat4")

TrackOne = Callable[[Path, Path], dict[str, str]]
"""Track a recording into a folder; returns what was found, by name."""


def track_folder(
    folder: Path,
    out: Path | None,
    pattern: str | None,
    jobs: int,
    settings: Mapping[str, object],
    track_one: TrackOne,
) -> int:
    """Track every recording of a folder that has no results yet; returns the exit code.

    The same command at the same time elsewhere takes part in the work. settings: what results depend on.
    """
    out = out or Path(f"{folder.resolve().name}_tracks")
    names = _recordings(folder, out, pattern)
    work = WorkList(out, names, settings)
    if is_worker():
        leave_with_launcher()
        _work(work, folder, track_one)
        return 0
    work.give_failed_another_chance()
    code = 0
    if jobs > 1:
        command = [sys.executable, "-m", "spiketrack.cli", *sys.argv[1:]]
        code = keep_at_work(command, min(jobs, len(names)), replacements=LIVES * len(names))
    else:
        _work(work, folder, track_one)
    done, failed, left = work.outcome()
    print(f"done      {len(done)} of {len(names)} recordings, in {out}")
    for name, reason in failed.items():
        print(f"failed    {name}: {reason}")
    if left:
        print(f"open      {len(left)}; the same command goes on with them")
    return code or int(bool(failed or left))


def _recordings(folder: Path, out: Path, pattern: str | None) -> list[str]:
    """The recordings of a folder and its folders, as relative paths; not those among the results."""
    paths = folder.glob(pattern) if pattern else (path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    results = out.resolve()
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in paths
        if path.is_file() and not path.resolve().is_relative_to(results)
    )
    if not names:
        wanted = f"no file matches {pattern}" if pattern else f"no recording ({', '.join(SUFFIXES)}); see --pattern"
        raise SettingsError(f"{folder}: {wanted}")
    return names


def _work(work: WorkList, folder: Path, track_one: TrackOne) -> None:
    """Take recordings from the list until none is left; a line on stderr for each."""
    for claim in work.claims():
        facts: dict[str, str] = {}
        with claim as results:
            facts = track_one(folder / claim.name, results)
        if claim.published:
            sys.stderr.write(f"{claim.name}: {facts['found']}, {facts['speed']}\n")
        elif claim.reason:
            sys.stderr.write(f"{claim.name}: {claim.reason}\n")

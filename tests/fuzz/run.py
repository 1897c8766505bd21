"""Fuzz every decoder: `python tests/fuzz/run.py --inputs 1000000 --processes 2 --seed 1 --out figures.json`.

Reads mutated files of every format and looks for crashes, hangs, unbounded memory, events off the sensor or out of
order, and for the other laws of fuzz_reading.py. An input that breaks one is kept and can be read again alone:
`python tests/fuzz/run.py --replay FILE`. Exit code 1 where there are such inputs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "recordings"))  # its encoders

from fuzz_corpus import WEIGHTS
from fuzz_inputs import load_input
from fuzz_reading import read_input
from fuzz_run import Figures, run
from fuzz_worker import Limits, place_input, prepare_reading

_PROGRESS_EVERY_S = 5.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", help=f"only these, separated by commas, of {', '.join(WEIGHTS)}")
    parser.add_argument("--timeout", type=float, default=Limits.timeout_s, help="seconds an input may take")
    parser.add_argument("--memory-mb", type=float, default=Limits.resident_bytes / 1e6, help="resident MB it may use")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="folder for inputs that fail")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="read one input of that folder")
    given = parser.parse_args(arguments)
    if given.replay:
        return _replay(given.replay)
    numbers = range(given.first, given.first + given.inputs)
    limits = Limits(timeout_s=given.timeout, resident_bytes=int(given.memory_mb * 1e6))
    kinds = given.kinds.split(",") if given.kinds else list(WEIGHTS)
    if not set(kinds) <= set(WEIGHTS):
        parser.error(f"--kinds: expected some of {', '.join(WEIGHTS)}")
    figures = run(given.seed, numbers, given.processes, limits, given.findings, kinds, _Progress(given.inputs))
    result = {"seed": given.seed, "first": given.first, "asked": given.inputs, "processes": given.processes,
              **figures.as_dict(), "machine": platform.processor() or platform.machine(),
              "python": platform.python_version()}  # fmt: skip
    if given.out:
        given.out.write_text(json.dumps(result, indent=1))
    print(_table(result))
    return 1 if figures.found else 0


class _Progress:
    def __init__(self, asked: int) -> None:
        self._asked, self._next = asked, time.monotonic() + _PROGRESS_EVERY_S

    def __call__(self, figures: Figures) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PROGRESS_EVERY_S
        rate = figures.inputs / max(figures.seconds, 1e-9)
        left = (self._asked - figures.inputs) / max(rate, 1e-9)
        print(
            f"{figures.inputs:,} of {self._asked:,} inputs, {rate:.0f}/s, {left / 60:.0f} min left, "
            f"{len(figures.shapes):,} shapes, {sum(figures.found.values())} found",
            file=sys.stderr,
        )


def _table(result: dict) -> str:
    lines = [f"{'kind':<16}{'inputs':>10}{'refused':>10}{'events':>14}{'slowest ms':>12}{'peak MB':>9}"]
    lines += [
        f"{name:<16}{k['inputs']:>10,}{k['refused']:>10,}{k['events']:>14,}{k['slowest_ms']:>12,}{k['peak_mb']:>9,}"
        for name, k in result["kinds"].items()
    ]
    lines.append(
        f"{result['inputs']:,} inputs in {result['seconds']:,} s ({result['inputs_per_s']}/s), seed {result['seed']}: "
        f"{result['events']:,} events, {result['shapes']:,} shapes of outcome, {result['pauses']} pauses, "
        f"{sum(result['found'].values())} found"
    )
    lines += [f"  {count} x {like}" for like, count in result["found"].items()]
    lines += [f"    {example['file']}: {example['what']}" for example in result["examples"]]
    return "\n".join(lines)


def _replay(file: Path) -> int:
    """Read an input as the run did; what it does wrong goes the usual way, up to the crash of this process."""
    prepare_reading()
    made = load_input(file)
    print(made.way)
    with tempfile.TemporaryDirectory() as folder:
        print(read_input(place_input(Path(folder), made), made))
    return 0


if __name__ == "__main__":
    sys.exit(main())

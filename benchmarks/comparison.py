"""Comparison: one network, several ways to handle time, the same data and the same CPU minutes.

    python benchmarks/comparison.py --data nmnist=DIR --data traffic=DIR --data ssd=DIR --out runs/comparison
    python benchmarks/comparison.py --table --out runs/comparison

nmnist and traffic: SpikeYOLO-p with the state carried and a loss per step, against the published time mean, a reset per
sample, and an artificial network with ReLU. ssd: 32-ST-VGG+SSD, never reset against reset per sample. Every run is a
process of its own with one thread; its steps are the budget over the CPU seconds of a step in the arm's runs so far, or
in a pilot (pilot.json). What has ended is not done again: train.json beside the weights of a run holds its minutes, a
JSON file beside its folder its scores; so the script goes on where it was stopped. See docs/comparison.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Comparison(NamedTuple):
    """arms: settings beside those of the experiment. test_scenes: the first so many of the test split."""

    experiment: str
    arms: dict[str, list[str]]
    test_scenes: int
    budget_s: float


SAMPLE = 4  # training.steps of compare_*.yaml
WAYS = {
    "carried": [],
    "mean": [
        "model.time=mean",
        "training.loss_at=last",
        "training.state=reset",
        f"evaluation.reset_every={SAMPLE}",
        "evaluation.labelled_only=true",
    ],
    "reset": ["training.state=reset", f"evaluation.reset_every={SAMPLE}"],
    "relu": ["model.neuron.activation=relu", "training.state=reset"],  # it remembers nothing: samples are shuffled
}
SSD_WAYS = {"carried": [], "reset": ["training.state=reset", "evaluation.reset_every=2"]}
COMPARISONS = {
    "nmnist": Comparison("compare_nmnist.yaml", WAYS, 6, 110.0),
    "traffic": Comparison("compare_traffic.yaml", WAYS, 8, 110.0),
    "ssd": Comparison("nmnist_ssd.yaml", SSD_WAYS, 8, 523.0),
}
PILOT_STEPS, PILOT_SKIPPED = 28, 4
MANY_EPOCHS = "training.epochs=20"  # more than training.max_steps asks for
VALIDATION_SCENES = 3  # the score from which boxes are tracked is chosen on them
EFFICIENCY_SCENES, EFFICIENCY_US = 2, 1_000_000
EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def main() -> None:
    options = _options()
    if options.table:
        print("\n\n".join(table(options.out, data) for data in COMPARISONS if any(options.out.glob(f"{data}_*.json"))))
    elif options.one:
        data, arm, seed = options.one
        run_one(options, data, arm, int(seed))
    else:
        for seed in range(options.seeds):
            for data in options.data:
                for arm in COMPARISONS[data].arms:
                    _in_a_process(options, data, arm, seed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", action="append", type=lambda pair: pair.split("=", 1), default=[], metavar="NAME=DIR",
        help="nmnist, traffic or ssd, and the folder of its data set; repeatable",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"), help="folder of runs and scores")
    parser.add_argument("--budget", type=float, help="CPU seconds of training of a run; default those of the page")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N - 1")
    parser.add_argument("--table", action="store_true", help="print the tables of the scores in --out")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "ARM", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.data = dict(options.data)
    return options


def _in_a_process(options: argparse.Namespace, data: str, arm: str, seed: int) -> None:
    """One run, unless it has been made."""
    if _scores_path(options.out, data, arm, seed).exists():
        return
    budget = options.budget or COMPARISONS[data].budget_s
    given = [f"--out={options.out}", f"--budget={budget}", "--data", f"{data}={options.data[data]}"]
    command = [sys.executable, __file__, *given, "--one", data, arm, str(seed)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    print(f"{time.strftime('%H:%M:%S')} {data} {arm} seed {seed}", flush=True)
    subprocess.run(command, check=True, env={**os.environ, **threads})


def run_one(options: argparse.Namespace, data: str, arm: str, seed: int) -> None:
    """Train one arm unless that has been done, then score it; its numbers go into a JSON file."""
    import torch

    from spiketrack.experiment import load_experiment

    torch.set_num_threads(1)
    comparison = COMPARISONS[data]
    base = [f"data.root={options.data[data]}", f"seed={seed}", MANY_EPOCHS, *comparison.arms[arm]]
    path = EXPERIMENTS / comparison.experiment
    run_dir = options.out / f"{data}_{arm}_{seed}"
    trained = run_dir / "train.json"
    if not trained.exists():
        step_s = _known_seconds(options.out, f"{data}_{arm}")
        step_s = step_s or _seconds_a_step(options.out, f"{data} {arm}", lambda: load_experiment(path, base))
        steps = max(1, round(options.budget / step_s))
        run_dir.mkdir(parents=True, exist_ok=True)
        cpu_s = _train(load_experiment(path, [*base, f"training.max_steps={steps}"]), run_dir)
        _write(trained, {"steps": steps, "train_cpu_s": cpu_s})
    scores = _scores(load_experiment(path, base), run_dir / "best.pt", comparison.test_scenes)
    _write(_scores_path(options.out, data, arm, seed), {**json.loads(trained.read_text()), **scores})


def _scores(experiment: Any, weights: Path, test_scenes: int) -> dict[str, Any]:
    """Detection, tracking and efficiency on the first scenes of the test split.

    Minutes of training leave scores of different height, so each network is tracked from the score on that has its best
    F1 on validation scenes.
    """
    from spiketrack.evaluation import evaluate
    from spiketrack.experiment import split_of
    from spiketrack.pipeline import Detector
    from spiketrack.report.efficiency import energies, measure_efficiency
    from spiketrack.tracking import ByteTrackSettings

    detector, rules, data = Detector.load(weights), experiment.evaluation, experiment.data
    fused = detector.fused()
    before = time.process_time()
    validated = evaluate(fused, split_of(data, data.val_split)[1][:VALIDATION_SCENES], rules, experiment.tracking)
    score = validated.detection.score_threshold or 1.0  # of the best F1
    tracking = ByteTrackSettings(low_score=score / 2, high_score=score, new_score=score)
    test = split_of(data, data.test_split)[1][:test_scenes]
    found = evaluate(fused, test, rules, tracking)
    evaluation_cpu_s = time.process_time() - before
    counted = measure_efficiency(
        detector,
        [(sequence.name, sequence.open()) for sequence in test[:EFFICIENCY_SCENES]],
        max_us=EFFICIENCY_US,
        reset_every=rules.reset_every,
    )
    detection, tracked = found.detection, found.tracking.class_average
    return {
        "evaluation_cpu_s": evaluation_cpu_s,
        "track_score": score,
        "labels": detection.labels,
        "label_times": detection.label_times,
        "map50": detection.ap50,
        "map": detection.map,
        "hota": tracked.hota,
        "idf1": tracked.idf1,
        "steps_a_label": rules.reset_every if rules.labelled_only else 1,
        "ac": counted.unrolled.ac,
        "mac": counted.unrolled.mac,
        "macs": counted.macs,
        "sparsity": counted.activation_sparsity,
        "rate": counted.rate,
        "energy_mj": energies(counted),
    }


def _train(experiment: Any, run_dir: Path) -> float:
    """CPU seconds of the process from the first step's beginning to the last one's end, without the validation."""
    from spiketrack.experiment import trainer_of

    trainer = trainer_of(experiment, run_dir)
    trainer.validation = trainer.validation[:1]  # the end of a run asks for one; its score is not used
    ends = []
    started = time.process_time()
    trainer.run(lambda progress: ends.append(time.process_time()))
    if len(ends) < experiment.training.max_steps:
        raise SystemExit(f"{run_dir}: stopped after {len(ends)} of {experiment.training.max_steps} steps")
    return ends[-1] - started


def _known_seconds(out: Path, arm: str) -> float | None:
    """CPU seconds of a training step over the runs of an arm that have ended."""
    runs = [json.loads(path.read_text()) for path in out.glob(f"{arm}_[0-9]*/train.json")]
    steps = sum(run["steps"] for run in runs)
    return sum(run["train_cpu_s"] for run in runs) / steps if steps else None


def _seconds_a_step(out: Path, key: str, load: Callable[[], Any]) -> float:
    """CPU seconds of a training step of an arm that has no run yet, measured once and kept."""
    from spiketrack.experiment import trainer_of

    path = out / "pilot.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if key not in known:
        trainer, ends = trainer_of(load(), out / "pilot"), []

        def on_step(progress: Any) -> None:
            ends.append(time.process_time())
            if len(ends) == PILOT_STEPS:
                raise _Enough

        try:
            trainer.run(on_step)
        except _Enough:
            known[key] = (ends[-1] - ends[PILOT_SKIPPED - 1]) / (PILOT_STEPS - PILOT_SKIPPED)
        out.mkdir(parents=True, exist_ok=True)
        _write(path, known)
    return known[key]


class _Enough(Exception):
    """The pilot has seen its steps."""


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n")


def _scores_path(out: Path, data: str, arm: str, seed: int) -> Path:
    return out / f"{data}_{arm}_{seed}.json"


HEAD = (
    "arm", "seeds", "updates", "CPU min", "mAP50", "mAP", "HOTA", "zeros %", "AC M", "MAC M", "mJ, operations",
    "mJ, SpikeYOLO's rule", "mJ a label time",
)  # fmt: skip


def table(out: Path, data: str) -> str:
    """The scores of a comparison as Markdown, mean and standard deviation over the seeds.

    Operations in millions and energies are per time step; zeros: activation sparsity.
    """
    rows = [(f"**{data}**", *HEAD[1:]), ("---",) * len(HEAD)]
    for arm in COMPARISONS[data].arms:
        runs = [json.loads(path.read_text()) for path in sorted(out.glob(f"{data}_{arm}_[0-9]*.json"))]
        if runs:
            rows.append(_row(arm, runs))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(arm: str, runs: list[dict[str, Any]]) -> tuple[str, ...]:
    """One arm under HEAD."""

    def over(value: Callable[[dict[str, Any]], float], form: str) -> str:
        values = [value(run) for run in runs]
        spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
        return f"{statistics.mean(values):{form}}{spread}"

    counted, paper = "NeuroBench's operations, integers as binary spikes", "SpikeYOLO's rule"
    return (
        arm,
        str(len(runs)),
        over(lambda run: run["steps"], ".0f"),
        over(lambda run: run["train_cpu_s"] / 60, ".2f"),
        *(over(lambda run, key=key: run[key], ".3f") for key in ("map50", "map", "hota")),
        over(lambda run: 100 * run["sparsity"], ".1f"),
        *(over(lambda run, key=key: run[key] / 1e6, ".1f") for key in ("ac", "mac")),
        *(over(lambda run, rule=rule: run["energy_mj"][rule], ".4f") for rule in (counted, paper)),
        over(lambda run: run["energy_mj"][counted] * run["steps_a_label"], ".4f"),
    )


if __name__ == "__main__":
    main()

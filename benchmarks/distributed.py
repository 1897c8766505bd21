"""Training by several processes: samples per second, bytes and messages of a step, and the time of an exchange.

    python benchmarks/distributed.py experiments/nmnist.yaml --set data.root=data/nmnist --layouts 1x1 2x1

A layout is PROCESSESxTHREADS. All share the same batches; with --weak a batch grows with the processes. Every repeat
runs all layouts one after the other; the best repeat counts, because others use the machine too. CPU time is the sum
over all processes, without their start.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from spiketrack.launching import launch

WARM_UP = 3  # steps: compilation, caches of events, the allocator
EXCHANGES = 20


def main() -> None:
    """Print a line per layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--layouts", nargs="+", default=["1x1", "1x2", "2x1"])
    parser.add_argument("--weak", type=int, metavar="B", help="samples of each process in a step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", type=Path)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    found: dict[str, list[dict]] = {layout: [] for layout in options.layouts}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeats):
            for layout, results in found.items():
                processes, threads = map(int, layout.split("x"))
                os.environ["OMP_NUM_THREADS"] = str(threads)
                out = Path(folder) / f"{layout}.json"
                launch([sys.executable, __file__, *sys.argv[1:], "--worker", str(out)], processes, 0)
                results.append(json.loads(out.read_text()))
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("layout  batch  samples/s (all repeats)  CPU ms/sample  bytes/step  messages/step  ms/exchange")
    for layout, results in found.items():
        rates, first = [result["rate"] for result in results], results[0]
        said = ", ".join(f"{rate:.2f}" for rate in rates)
        cpu, exchange = (min(result[name] for result in results) for name in ("cpu_ms", "exchange_ms"))
        print(
            f"{layout}  {first['batch']}  {max(rates):.2f} ({said})  {cpu:.0f}  {first['bytes']:,}  "
            f"{first['messages']}  {exchange:.2f}"
        )


def work(options: argparse.Namespace) -> None:
    """One process of one layout; the first one writes what it measured."""
    import torch

    from spiketrack.distributed import joined
    from spiketrack.experiment import load_experiment, trainer_of

    with tempfile.TemporaryDirectory() as run_dir:
        experiment = load_experiment(options.config, options.overrides)
        with joined(experiment.training.device) as ranks:
            batch = options.weak * ranks.world if options.weak else experiment.training.batch_size
            training = experiment.training.model_copy(update={"batch_size": batch, "checkpoint_every": 10**6})
            trainer = trainer_of(experiment.model_copy(update={"training": training}), Path(run_dir), ranks)
            sent: list[int] = []
            all_reduce = torch.distributed.all_reduce

            def counted(tensor: torch.Tensor) -> None:
                sent.append(tensor.numel() * tensor.element_size())
                all_reduce(tensor)

            torch.distributed.all_reduce = counted
            marks: list[tuple[float, float, int, int]] = []

            def on_step(progress: object) -> None:
                marks.append((time.perf_counter(), time.process_time(), sum(sent), len(sent)))
                if len(marks) == WARM_UP + options.steps:
                    os.kill(os.getpid(), signal.SIGTERM)  # all ranks: they stop together after one more step

            trainer.run(on_step)
            exchanges = []
            for _ in range(EXCHANGES):
                ranks.any(False)
                began = time.perf_counter()
                ranks.add_gradients(trainer.model.parameters())
                exchanges.append(time.perf_counter() - began)
            begin, end = marks[WARM_UP - 1], marks[WARM_UP + options.steps - 1]
            wall, cpu, sent_bytes, messages = (b - a for a, b in zip(begin, end, strict=True))
            cpu = float(ranks.total(torch.tensor(cpu, dtype=torch.float64)))
            if ranks.first:
                measured = {
                    "batch": batch,
                    "rate": options.steps * batch / wall,
                    "cpu_ms": 1e3 * cpu / options.steps / batch,
                    "bytes": round(sent_bytes / options.steps),
                    "messages": round(messages / options.steps),
                    "exchange_ms": 1e3 * sorted(exchanges)[EXCHANGES // 2],
                }
                options.worker.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()

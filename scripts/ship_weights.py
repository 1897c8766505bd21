"""Make the file of the shipped network from the checkpoint of a training run.

python scripts/ship_weights.py runs/traffic/best.pt src/spiketrack/weights/traffic.pt --about data="traffic, seed 0"
"""

import argparse
from importlib.metadata import version
from pathlib import Path

from spiketrack.detector.shipped import write_shipped
from spiketrack.errors import SpiketrackError


def main() -> None:
    parser = argparse.ArgumentParser(description="strip a checkpoint to the detector, with weights as float16")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--about", action="append", default=[], metavar="KEY=TEXT", help="kept in the file")
    arguments = parser.parse_args()
    pairs = [line.partition("=") for line in arguments.about]
    about = {"spiketrack": version("spiketrack"), **{key: text for key, _, text in pairs}}
    try:
        size = write_shipped(arguments.checkpoint, arguments.out, about)
    except SpiketrackError as error:
        raise SystemExit(str(error)) from error
    print(f"{arguments.out}: {size:,} bytes")


if __name__ == "__main__":
    main()

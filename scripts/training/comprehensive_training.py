"""Train a SpikeYOLOTracker as the guides say: configuration in config/config.yaml (docs/guide.md).

python scripts/training/comprehensive_training.py --slice_duration_us 100 --time_steps 8 --batch_size 8
"""

import sys

from spiketrack.cli.guide import train

if __name__ == "__main__":
    train(sys.argv[1:])

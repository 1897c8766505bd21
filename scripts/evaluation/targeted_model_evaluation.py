"""Evaluate a checkpoint as the guides say: metrics, table of the classes, plots, log (docs/guide.md).

python scripts/evaluation/targeted_model_evaluation.py --checkpoint_path checkpoints/best_model.pth
"""

import sys

from spiketrack.cli.guide import evaluate

if __name__ == "__main__":
    evaluate(sys.argv[1:])

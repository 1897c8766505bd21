"""Search the settings of a SpikeYOLOTracker as the guides say (docs/search.md).

python scripts/training/hyperparameter_search.py --n_trials 20 --epochs 3 --jobs 2
"""

import sys

from spiketrack.cli.search import main

if __name__ == "__main__":
    main(sys.argv[1:])

"""Class weights from the labels of a data set (docs/guide.md).

python scripts/utils/calculate_class_weights.py
"""

import sys

from spiketrack.cli.guide import class_weights

if __name__ == "__main__":
    class_weights(sys.argv[1:])

"""The published classification command: train and test a spiking backbone on N-CARS (or N-MNIST).

python scripts/classification.py -dataset ncars -path PATH/TO/N-CARS -model 32-ST-VGG -T 5 -tbin 2 -epochs 30 -test
"""

import sys

from spiketrack.cli.classification_door import main

if __name__ == "__main__":
    main(sys.argv[1:])

"""The published detection command: train and test an SSD on ST-VGG or ResCat-SNN, without reset of the state.

python scripts/object_detection.py -path PATH/TO/GEN1 -backbone vgg -save_ckpt
python scripts/object_detection.py -path PATH/TO/GEN1 -pretrained ckpt-cont-od-gen1-vgg/best.pt -no_train -test
"""

import sys

from spiketrack.cli.object_detection_door import main

if __name__ == "__main__":
    main(sys.argv[1:])

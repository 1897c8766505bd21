"""`python -m spiketrack.cli`."""

from spiketrack.cli import main

main()

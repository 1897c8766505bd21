"""Weights: the files of the networks that come with the package; `detector/shipped.py` reads and makes them."""

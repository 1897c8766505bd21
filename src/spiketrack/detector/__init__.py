"""Detector: the network, its targets, its loss and its decoding, four things that know as little as possible of
each other."""

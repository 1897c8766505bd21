"""`spiketrack evaluate --spikes binary`: the same detections and the same scores."""

import json
import re
import sys

import pytest
import yaml
from loud_detector import loud_detector
from moving_squares import SLICE_US

from spiketrack import binary_spikes
from spiketrack.cli import main
from spiketrack.deploy import unroll
from spiketrack.detector.checkpoint import save_checkpoint


@pytest.fixture
def evaluated(monkeypatch, capsys, tmp_path, squares):
    """A function that evaluates a random network on the squares: what it printed, and its metrics."""
    monkeypatch.chdir(tmp_path)
    tree = {"name": "tiny", "data": {"root": str(squares)}, "input": {"slice_us": SLICE_US}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    save_checkpoint(tmp_path / "loud.pt", loud_detector().content())

    def run(*arguments):
        line = ["spiketrack", "evaluate", "tiny.yaml", "--weights", "loud.pt", "--out", "scores", *arguments]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        return capsys.readouterr().out, json.loads((tmp_path / "scores" / "metrics.json").read_text())

    return run


def equal_detections(out):
    """How many detections the command calls equal with integer spikes, and of how many."""
    found = re.search(r"^equal detections: ([\d,]+) of ([\d,]+) with integer spikes; ", out, re.M)
    return tuple(int(text.replace(",", "")) for text in found.groups())


def test_binary_spikes_find_what_integers_find(evaluated):
    _, integer = evaluated()
    out, binary = evaluated("--spikes", "binary")
    assert (integer["facts"]["spikes"], binary["facts"]["spikes"]) == ("integer", "binary")
    equal, total = equal_detections(out)
    assert equal == total == binary["detection"]["detections"] > 100
    scores = re.search(r"^mAP: binary spikes (\S+), integer spikes (\S+); as trained", out, re.M).groups()
    assert scores[0] == scores[1] == f"{binary['detection']['map']:.3f}"
    # the network as trained computes in float32: rounding may decide a spike
    assert binary["detection"]["map"] == pytest.approx(integer["detection"]["map"], abs=0.02)


def test_detections_that_differ_are_not_counted_as_equal(evaluated, monkeypatch):
    """Were the weights of one layer off by a tenth, the command would say so."""

    def wrong(network):
        unrolled = unroll(network)
        unrolled.head.classes[0].last.conv.weight *= 1.1
        return unrolled

    monkeypatch.setattr(binary_spikes, "unroll", wrong)
    out, _ = evaluated("--spikes", "binary")
    equal, total = equal_detections(out)
    assert equal < total

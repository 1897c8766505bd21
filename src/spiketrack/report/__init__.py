"""Report: results become files that people look at and programs read.

Station: the end of the way of the data. Tracked steps become MOTChallenge text, label rows, a video and a page
(`TrackOutput`, `track_recording`); an evaluation becomes metrics.json and a page (`write_evaluation`). Every file takes
its name when it is complete, and every page is one HTML file that needs nothing beside it.
"""

from spiketrack.report.evaluation import write_evaluation
from spiketrack.report.mot import MotWriter
from spiketrack.report.score_tables import format_scores
from spiketrack.report.tracking import TrackOutput, track_recording

__all__ = ["MotWriter", "TrackOutput", "format_scores", "track_recording", "write_evaluation"]

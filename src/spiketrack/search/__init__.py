"""Search: which settings of an experiment give the best validation mAP.

Station: above experiments and training. In come an experiment, a space of settings and a study's storage; trials are
trained, bad ones are pruned, and out go the best settings as an experiment file, a table and a page. Several processes
and machines work on one study; one that is stopped or killed costs no trial. Needs Optuna (Akiba et al., KDD 2019).
"""

from spiketrack.errors import SettingsError

try:
    import optuna  # noqa: F401
except ImportError as missing:
    raise SettingsError('the search needs Optuna: pip install "spiketrack[search]"') from missing

from spiketrack.search.attempt import Attempt, train_trial
from spiketrack.search.results import write_results
from spiketrack.search.running import prepare, run_search
from spiketrack.search.space import Parameter, Space, default_space, load_space
from spiketrack.search.study import SearchSettings

__all__ = [
    "Attempt",
    "Parameter",
    "SearchSettings",
    "Space",
    "default_space",
    "load_space",
    "prepare",
    "run_search",
    "train_trial",
    "write_results",
]

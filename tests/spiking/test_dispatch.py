import sys
from types import SimpleNamespace

import pytest
import torch

from spiketrack.spiking import dispatch
from spiketrack.spiking.dispatch import way_of

ON_CUDA = SimpleNamespace(device=SimpleNamespace(type="cuda"))


def pretend(monkeypatch, version):
    """A triton of this version, None: none at all; asked for anew."""
    monkeypatch.delenv("SPIKETRACK_TRITON", raising=False)
    monkeypatch.setattr(dispatch, "_has_triton", dispatch._has_triton.__wrapped__)
    monkeypatch.setattr(dispatch, "find_spec", lambda name: name if version else None)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__=version))


@pytest.mark.parametrize(
    ("version", "way"), [(None, "torch"), ("3.2.0", "torch"), ("3.3.1+git0123", "triton"), ("3.10.0", "triton")]
)
def test_cuda_takes_triton_where_it_is_new_enough(monkeypatch, version, way):
    pretend(monkeypatch, version)
    assert way_of(ON_CUDA) == way


def test_the_switch_turns_triton_off(monkeypatch):
    pretend(monkeypatch, "3.9.0")
    monkeypatch.setenv("SPIKETRACK_TRITON", "0")
    assert way_of(ON_CUDA) == "torch"


def test_other_devices_never_ask_for_triton(monkeypatch):
    pretend(monkeypatch, "3.9.0")
    monkeypatch.setattr(dispatch, "_has_triton", lambda: pytest.fail("asked"))
    assert way_of(torch.empty(1)) == "loops"
    assert way_of(torch.empty(1, device="meta")) == "torch"


def test_what_torch_compiles_are_torch_operations(monkeypatch):
    pretend(monkeypatch, "3.9.0")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert way_of(ON_CUDA) == way_of(torch.empty(1)) == "torch"

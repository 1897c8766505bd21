"""Faults of a settings file are named by their place, in lists and optional sections too."""

import pytest
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.errors import SettingsError
from spiketrack.settings import load_settings


class Lens(BaseModel):
    model_config = ConfigDict(extra="forbid")
    focal: float = Field(1.0, gt=0)


class Rig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lenses: list[Lens] = []
    spare: Lens | None = None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lenses: [{focal: 2}, {vocal: 1}]", "unknown key lenses.1.vocal; the nearest known is focal"),
        ("lenses: [{focal: 0}]", "lenses.0.focal: Input should be greater than 0"),
        ("spare: {vocal: 1}", "unknown key spare.vocal; the nearest known is focal"),
    ],
)
def test_a_fault_is_named_by_its_place(tmp_path, text, said):
    (tmp_path / "rig.yaml").write_text(text)
    with pytest.raises(SettingsError) as raised:
        load_settings(Rig, tmp_path / "rig.yaml")
    assert said in str(raised.value)

"""Loading: the configuration file of the guides, with the folders of the current environment in place.

Station: in come `config/config.yaml` and overrides, out goes GuideSettings. Also `ConfigLoader`, the documented access.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from spiketrack.errors import SettingsError
from spiketrack.guide.settings import GuideSettings
from spiketrack.settings import load_settings

DEFAULT_CONFIG = Path("config/config.yaml")


def load_guide(path: Path | None, overrides: list[str] | None = None) -> GuideSettings:
    """Read the file (None: all defaults); overrides are `section.key=value`. Raises SettingsError naming the key."""
    settings = load_settings(GuideSettings, path, overrides)
    if settings.current_environment is None:
        return settings
    folders = getattr(settings.environments, settings.current_environment)
    given = {name: value for name, value in folders if value is not None}
    for section in ("data", "model"):
        before = getattr(settings, section)
        own = {name: value for name, value in given.items() if name in type(before).model_fields}
        settings = settings.model_copy(update={section: before.model_copy(update=own)})
    return settings


class ConfigLoader:
    """The documented access: `ConfigLoader('config/config.yaml').get('training.batch_size')`.

    settings: the typed tree behind it.
    """

    def __init__(self, path: Path | str = DEFAULT_CONFIG) -> None:
        self.path = Path(path)
        self.settings = load_guide(self.path)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key joined by dots; `default` where it is null.

        A section comes as a dict. Raises SettingsError for a key that does not exist, naming those that do.
        """
        value: Any = self.settings
        for part in key.split("."):
            if not isinstance(value, BaseModel) or part not in type(value).model_fields:
                known = ", ".join(type(value).model_fields) if isinstance(value, BaseModel) else "nothing"
                raise SettingsError(f"{self.path}: no key {key!r}; where {part!r} was looked for there is {known}")
            value = getattr(value, part)
        if isinstance(value, BaseModel):
            return value.model_dump()
        return default if value is None else value

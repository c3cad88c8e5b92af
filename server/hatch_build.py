"""Build ``aiao-server``: its packages lie beside this folder in a checkout, and inside it in a source distribution."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

EMOJI = [f"demo_models/emoji/{name}" for name in ("__init__.py", "data.py", "fine_tune.py", "train.py", "twemoji32.npz")]
MODEL = [f"demo_models/emoji/model/{name}" for name in ("model_index.json", "scheduler", "unet")]
ATTRIBUTION = "demo_models/emoji/ATTRIBUTION.md"
PARTS = ["service", "worker", "migrations", "demo_models/__init__.py", "demo_models/training.py", *EMOJI, *MODEL, ATTRIBUTION]
"""Files and folders of the project that the distribution holds."""


class ServerParts(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the application's packages into the distribution."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # a path to the checkout is all it holds
            return
        here = Path(self.root)
        source = here if (here / "service").is_dir() else here.parent
        build_data["force_include"].update({str(source / part): part for part in PARTS})
        if source != here:
            build_data["force_include"][str(source / "LICENSE")] = "LICENSE"


class SameVersion(MetadataHookInterface):
    """Requires ``aiao`` of exactly the server's version: the two are one program in two parts."""

    def update(self, metadata: dict[str, Any]) -> None:
        metadata["dependencies"] = [f"aiao=={metadata['version']}", *self.config["dependencies"]]

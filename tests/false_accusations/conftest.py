"""Roads by which an innocent was accused. Each test closes one, and would find it open in release 0.1.0.

What is tested goes through the doors that a claimant has: files and the offline test, or the HTTP API.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from diffusers import DDPMPipeline
from safetensors.torch import save_file
from torch import nn

import aiao
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.key import OwnerKey
from aiao_core.options import VerificationOptions
from aiao_core.reports.verification import Report
from tests.support.tiny_models import make_marked, make_tiny_model


class Owner(NamedTuple):
    """A model before and after the watermark, and its key: objects, and files in ``folder``."""

    folder: Path
    source: DiffusionModel
    marked: DiffusionModel
    key: OwnerKey


Test = Callable[..., Report]


@pytest.fixture(scope="session")
def owner(tmp_path_factory, run_folder) -> Owner:
    """The tiny model with a mark: ``source/``, ``marked/`` and ``my.key.json``."""
    folder = tmp_path_factory.mktemp("owner")
    source, (marked, key) = make_tiny_model(), make_marked(run_folder)
    for name, model in (("source", source), ("marked", marked)):
        DDPMPipeline(model.denoiser, model.schedule.scheduler).save_pretrained(folder / name)
    (folder / "my.key.json").write_text(key.to_json())
    return Owner(folder, source, marked, key)


@pytest.fixture
def tested(tmp_path) -> Test:
    """Test a model or a file with a key or a key file, as ``aiao verify --offline`` does."""

    def run(
        suspect: nn.Module | Path,
        key: OwnerKey | Path,
        *,
        source: nn.Module | Path | None = None,
        base: nn.Module | Path | None = None,
        **options: float,
    ) -> Report:
        if isinstance(key, OwnerKey):
            file = tmp_path / "claimed.key.json"
            file.unlink(missing_ok=True)
            file.write_text(key.to_json())
            key = file
        return aiao.verify(
            _file(suspect, tmp_path / "suspect.safetensors"),
            key,
            source=_file(source, tmp_path / "source.safetensors"),
            base=_file(base, tmp_path / "base.safetensors"),
            options=VerificationOptions(**options),
        ).details

    return run


def _file(model: nn.Module | Path | None, file: Path) -> Path | None:
    if not isinstance(model, nn.Module):
        return model
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)
    return file

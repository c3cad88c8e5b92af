import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import DDPMPipeline

from tests.support.places import EXAMPLES
from tests.support.tiny_models import make_tiny_model


@pytest.fixture
def quick() -> str:
    """Embedding options for the tiny pipeline: enough for a log10 p of about -32, where a match needs -19."""
    return json.dumps({"steps": 120, "batch_size": 8, "layers": 39, "learning_rate": 5e-3})


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory) -> Path:
    """A pipeline folder of some thousand parameters."""
    folder, model = tmp_path_factory.mktemp("pipeline") / "tiny", make_tiny_model()
    DDPMPipeline(model.denoiser, model.schedule.scheduler).save_pretrained(folder)
    return folder


@pytest.fixture
def example(tmp_path: Path) -> Callable[..., str]:
    """Runs an example as a user does, in an empty folder, and returns what it printed."""

    def run(name: str, *arguments: str | Path, **variables: str) -> str:
        environment = {"OMP_NUM_THREADS": "1"} | os.environ | variables
        done = subprocess.run(
            [sys.executable, EXAMPLES / name, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run

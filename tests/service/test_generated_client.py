"""The client that openapi-python-client makes of the document that is checked in works with the running service."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import PROJECT
from tests.support.processes import System
from tests.support.uploads import MODEL_ZIP

ENVIRONMENT = Path(sys.executable).parent
DOCS = PROJECT / "docs"


def run(*command: str | Path, **variables: str) -> str:
    """The generator calls ruff by its name."""
    path = f"{ENVIRONMENT}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, env=os.environ | {"PATH": path} | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_generated_client_works(api: System, tmp_path: Path):
    package, model = tmp_path / "generated", tmp_path / "model.zip"
    given = ("--path", DOCS / "openapi.json", "--config", DOCS / "openapi-python-client.yml", "--output-path", package)
    said = run(ENVIRONMENT / "openapi-python-client", "generate", *given)
    assert "warning" not in said.lower()
    model.write_bytes(MODEL_ZIP)
    program = PROJECT / "tests" / "support" / "generated_client.py"
    run(sys.executable, program, api.url, api.token(), model, PYTHONPATH=str(package))

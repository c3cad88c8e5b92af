import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import PROJECT

HEAVY = ("torch", "diffusers", "safetensors", "accelerate", "PIL")

NOT_INSTALLED = f"""
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", NOT_INSTALLED + script], cwd=PROJECT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    "script",
    [
        "from service.app import create_app; assert len(create_app().openapi()['paths']) > 10",
        "import service.processes.reaper",
        "import service.admin",
        "import service.processes.embedded",
    ],
)
def test_it_starts_where_torch_is_not_installed(script):
    done = run(script)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.process
def test_the_check_above_would_notice_torch():
    assert "No module named 'torch'" in run("import aiao_core.method.tracing").stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_running_api_has_not_loaded_torch(api, http):
    http.get("/v1/models").raise_for_status()
    libraries = Path(f"/proc/{api.processes['api'].pid}/maps").read_text()
    assert "/pydantic_core/" in libraries
    assert not [name for name in HEAVY if f"/{name}/" in libraries]

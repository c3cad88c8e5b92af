import importlib.util
from pathlib import Path

from aiao_core import denoisers

SCRIPT = Path(__file__).parents[1] / "docs" / "forms.py"


def load():
    spec = importlib.util.spec_from_file_location("forms", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_forms_says_what_the_code_reads():
    """If this fails, run: make forms"""
    forms = load()
    page = forms.PAGE.read_text("utf-8")
    assert page == forms.render()
    for name in ("UNet2DConditionModel", "WanTransformer3DModel", "StableAudioDiTModel"):
        assert name in denoisers.supported()
        assert f"| `{name}` |" in page

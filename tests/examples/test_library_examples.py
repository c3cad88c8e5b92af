"""The examples of the library, as a user runs them."""

import re

import numpy as np
import pytest

import aiao
from tests.support.places import EXAMPLES, PROJECT


@pytest.mark.slow
@pytest.mark.process
def test_a_model_is_marked_and_found_by_the_library_alone(example, pipeline, quick, tmp_path):
    images = tmp_path / "images.npz"
    np.savez(images, images=np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8))
    printed = example("library_alone.py", pipeline, "marked", "--images", images, "--options", quick)
    assert re.search(r"^marked: match, log10 p -\d", printed, re.MULTILINE)
    assert f"{pipeline}: no-match" in printed
    assert aiao.load_key(tmp_path / "marked.key.json").commitment in printed
    assert (tmp_path / "marked" / "model_index.json").exists()
    assert "<html" in (tmp_path / "marked-report.html").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.process
def test_a_family_of_ones_own_is_marked_and_found(example):
    printed = example("new_family.py")
    assert re.search(r"^marked: match, log10 p -\d", printed, re.MULTILINE)
    assert "source: no-match" in printed


def test_the_family_is_the_one_of_the_document():
    document = (PROJECT / "docs" / "families.md").read_text("utf-8")
    shown = re.search(r"^class CogView4.+?(?=^```)", document, re.DOTALL | re.MULTILINE)[0]
    assert shown in (EXAMPLES / "new_family.py").read_text("utf-8")

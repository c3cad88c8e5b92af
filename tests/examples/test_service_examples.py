"""The example of a running service, as a user runs it."""

import re

import pytest


@pytest.mark.slow
def test_a_model_is_registered_and_suspects_verified(example, pipeline, quick, production, tmp_path):
    variables = {"AIAO_URL": production.url, "AIAO_TOKEN": production.token("examples")}
    printed = example("register_and_verify.py", pipeline, pipeline, "--name", "tiny", "--options", quick, **variables)
    assert re.search(r"embedding: \d+ of 120", printed)
    assert re.search(r"^tiny-marked\.zip: match, log10 p -\d", printed, re.MULTILINE)
    assert f"\n{pipeline}: no-match" in printed
    assert (tmp_path / "tiny.secret").stat().st_mode & 0o777 == 0o600
    assert all("<html" in (tmp_path / f"tiny-report-{number}.html").read_text("utf-8") for number in range(2))

"""A planted mark, or a key that was disclosed, frames a third party if a match says more than the test can know."""

import re

from aiao_core.reports.summary import Summary
from aiao_core.reports.verification_page import summary_to_html, to_html
from tests.support.shell import run

TOO_MUCH = re.compile(
    r"descends? from the marked|stolen|\bthief\b|copied from|probability of innocence|proves that", re.IGNORECASE
)


def words(page: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<svg.*?</svg>|<[^>]+>", " ", page, flags=re.DOTALL).split())


def test_a_match_says_what_the_probability_bounds_and_names_the_alternatives(owner, tested):
    report = tested(owner.marked.denoiser, owner.key)
    assert report.verdict == "match"
    for page in (to_html(report), summary_to_html(Summary.of(report))):
        text = words(page)
        assert "made with knowledge of the key or of the marked weights" in text
        assert "planted in another model" in text
        assert "the claimant prepared the file" in text
        assert TOO_MUCH.search(text.replace("the weights descend from the marked checkpoint", "")) is None


def test_the_headline_of_the_command_line_names_what_was_tested(owner, monkeypatch, capsys):
    monkeypatch.chdir(owner.folder)
    assert run(monkeypatch, "verify", "--offline", "--key", "my.key.json", "--source", "source", "marked") == 0
    out = capsys.readouterr().out
    assert out.startswith("MATCH: marked answers with the owner's key")
    assert TOO_MUCH.search(out) is None

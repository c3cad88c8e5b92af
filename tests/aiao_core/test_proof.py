"""No owner gets a mark that cannot be found, or that anybody can read."""

from dataclasses import replace

import pytest

from aiao_core.errors import EmbeddingFailed
from aiao_core.progress import Progress
from aiao_core.proof import prove
from tests.support.tiny_models import make_tiny_model


def of(denoiser):
    return lambda: replace(make_tiny_model(), denoiser=denoiser)


def test_a_mark_that_is_found_and_not_read_is_proved_the_same_way_every_time(marked):
    stages: list[Progress] = []
    first = prove(of(marked.denoiser), marked.key, source=lambda: marked.source, progress=stages.append)
    again = prove(of(marked.denoiser), marked.key, source=lambda: marked.source)
    assert first.verdict == "match"
    assert first.registration == "service"
    assert (first.test, first.seed) == (again.test, again.seed)
    assert stages[-1].stage == "reading"


def test_a_mark_that_is_read_at_once_is_refused(old_marked):
    with pytest.raises(
        EmbeddingFailed, match=r"read out of the marked model without the key: .* has [78]\d% or more .*; use more steps"
    ):
        prove(of(old_marked.denoiser), old_marked.key, source=lambda: old_marked.source)


def test_a_mark_that_is_not_there_is_refused(marked):
    with pytest.raises(EmbeddingFailed, match=r"cannot be proved: log10 p is .*; use more steps or more layers"):
        prove(of(marked.source), marked.key, source=lambda: marked.source)

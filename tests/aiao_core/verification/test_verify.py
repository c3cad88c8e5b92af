import copy
import gc
import weakref
from dataclasses import replace

import pytest
from torch import nn

from aiao_core.denoisers.weights import digest
from aiao_core.errors import Canceled, InvalidCheckpoint, TracingError
from aiao_core.key import Layer
from aiao_core.options import VerificationOptions
from aiao_core.protocol import LIMIT_LOG10_P, STRONGEST_LOG10_P, VERSION, verification_seed
from aiao_core.reports.verification import Report
from aiao_core.verification.verify import Subject, verify
from tests.support.tiny_models import QUICK

SUBJECT = Subject("suspect", "model")
FEW = VerificationOptions(draws=2, decoys=3)
"""An exploration: most of what follows is the same with fewer draws."""

WIDE = QUICK.model_copy(update={"layers": 1000})
"""Of every layer: what reaches little of a strange model leaves few bits."""

READINGS = ("plain", "without_interference")


def changed(denoiser: nn.Module, name: str = "conv_out.bias", by: float = 1e-3) -> nn.Module:
    """A copy with one number of its weights changed."""
    other = copy.deepcopy(denoiser)
    other.get_parameter(name).data.view(-1)[0] += by
    return other


def test_one_key_and_one_suspect_have_one_test_and_one_answer(tiny_model, tiny_key):
    first, second = (verify(tiny_model.denoiser, tiny_key, subject=SUBJECT) for _ in range(2))
    assert first.model_copy(update={"created_at": second.created_at}) == second
    assert first.ruled
    renamed = verify(copy.deepcopy(tiny_model.denoiser), tiny_key, subject=Subject("another name", "file"))
    assert (renamed.seed, renamed.ways, renamed.decoys, renamed.subpaths) == (
        first.seed,
        first.ways,
        first.decoys,
        first.subpaths,
    )


def test_the_seed_follows_from_key_source_and_weights_and_from_nothing_else(tiny_model, tiny_key):
    """Any change of one of them is another test; names, options and the registration are not."""
    suspect, source = tiny_model.denoiser, changed(tiny_model.denoiser, "conv_in.bias")

    def seed(suspect=suspect, key=tiny_key, subject=SUBJECT, options=FEW, **more) -> int:
        if "source" in more:
            key = key.bound(digest(more["source"].state_dict()), VERSION)
        return verify(suspect, key, subject=subject, options=options, **more).seed

    weights, of_source = digest(suspect.state_dict()), digest(source.state_dict())
    alone, beside = seed(), seed(source=source)
    assert alone == verification_seed(tiny_key.commitment, None, weights)
    assert beside == verification_seed(tiny_key.commitment, of_source, weights)
    others = [
        seed(changed(suspect)),
        seed(changed(suspect), source=source),
        seed(key=replace(tiny_key, seed=bytes(32))),
        seed(key=replace(tiny_key, seed=bytes(32)), source=source),
        seed(source=changed(source)),
        seed(subject=replace(SUBJECT, weights="sha256:" + "0" * 64)),
    ]
    assert len({alone, beside, *others}) == 2 + len(others)
    assert seed(source=source, registration="service") == beside
    assert seed(subject=Subject("other", "file", model_name="mine"), options=FEW.model_copy(update={"draws": 3})) == alone


def test_with_a_seed_of_choice_the_draws_are_others_and_it_is_no_verdict(tiny_model, tiny_key):
    reports = [
        verify(tiny_model.denoiser, tiny_key, options=FEW.model_copy(update={"seed": seed}), subject=SUBJECT) for seed in (4, 5)
    ]
    assert [report.seed for report in reports] == [4, 5]
    assert {report.verdict for report in reports} == {"exploratory"}
    assert reports[0].subpaths != reports[1].subpaths


def test_a_seed_of_choice_that_is_the_one_that_follows_departs_from_nothing(tiny_model, tiny_key, monkeypatch):
    """Nobody chooses so: one in 65,536 derived seeds is as short as one of choice may be."""
    for place in ("aiao_core.verification.verify", "aiao_core.protocol"):
        monkeypatch.setattr(f"{place}.verification_seed", lambda *_: 5)
    reports = [
        verify(tiny_model.denoiser, tiny_key, subject=SUBJECT, options=VerificationOptions(seed=seed)) for seed in (None, 5, 6)
    ]
    assert [report.verdict for report in reports] == ["no-match", "no-match", "exploratory"]
    assert reports[1] == reports[0].model_copy(update={"created_at": reports[1].created_at})


def test_other_keys_cannot_be_foreseen_without_the_owners(tiny_key):
    """A thief who knew them could change a file until a decoy matches by chance, and voids the test."""
    other = replace(tiny_key, seed=bytes(32))
    seeds = {
        key.stranger_seed(purpose, test, number)
        for key in (tiny_key, other)
        for purpose in ("decoy", "other", "places")
        for test in (1, 2)
        for number in range(3)
    }
    assert len(seeds) == 2 * 3 * 2 * 3
    assert seeds.isdisjoint({tiny_key.seed, other.seed})
    assert {len(seed) for seed in seeds} == {32}


def test_no_pass_but_the_keys_check_runs_to_the_end(tiny_model, tiny_key):
    """The check traces two whole passes; the others stop after the last response layer."""
    ran = []
    handle = tiny_model.denoiser.conv_out.register_forward_hook(lambda *_: ran.append("conv_out"))
    verify(tiny_model.denoiser, tiny_key, options=FEW, subject=SUBJECT)
    handle.remove()
    assert ran == ["conv_out"] * 2


@pytest.mark.parametrize("registration", ["service", "key-file"])
def test_an_embedded_mark_is_a_match_with_the_source_as_a_control(marked, registration):
    report = verify(marked.denoiser, marked.key, subject=SUBJECT, source=marked.source, registration=registration)
    assert (report.verdict, report.reason, report.tested) == ("match", None, "checkpoint")
    assert report.test.log10_p < (STRONGEST_LOG10_P if registration == "service" else LIMIT_LOG10_P)
    assert report.bound_log10_p == max(report.test.log10_p, STRONGEST_LOG10_P)
    assert min(decoy.log10_p for decoy in report.decoys) > -6
    assert Report.from_json(report.to_json()) == report


def test_a_stricter_limit_is_a_verdict_too(marked):
    strict = VerificationOptions(max_log10_p=-10_000)
    report = verify(marked.denoiser, marked.key, subject=SUBJECT, options=strict)
    assert (report.verdict, report.max_log10_p, report.ruled) == ("no-match", -10_000, True)
    assert Report.from_json(report.to_json()) == report


def test_of_an_adapter_the_base_is_tested_first(marked):
    """By the same draws, and if it carries the mark the report is of the base alone."""
    subject = replace(SUBJECT, base_name="a base", weights="sha256:" + "1" * 64)
    on_source = verify(marked.denoiser, marked.key, subject=subject, base=marked.source)
    assert (on_source.verdict, on_source.tested, on_source.base_name) == ("match", "adapter", "a base")
    assert on_source.suspect_weights == subject.weights
    assert on_source.base_test.log10_p > -6
    assert on_source.base_test == verify(marked.source, marked.key, subject=subject).test
    on_marked = verify(marked.source, marked.key, subject=subject, base=marked.denoiser)
    assert (on_marked.verdict, on_marked.tested, on_marked.base_name) == ("base-marked", "base", "a base")
    assert on_marked.seed == on_source.seed
    assert on_marked.base_test is None
    assert on_marked.test == on_source.test  # of the same weights by the same draws: only the words differ
    for report in (on_source, on_marked):
        assert Report.from_json(report.to_json()) == report
    unnamed = verify(marked.source, marked.key, subject=SUBJECT, base=marked.source)
    assert (unnamed.verdict, unnamed.tested, unnamed.base_name) == ("no-match", "adapter", "base")


@pytest.mark.parametrize("known", [True, False], ids=["digest is known", "digest is not known"])
def test_one_model_at_a_time_is_in_memory(tiny_model, tiny_key, known):
    """Loaders are called when a test comes to a model, and what was loaded before is gone by then."""
    alive: list[weakref.ref] = []
    order = []

    def loader(name: str, denoiser: nn.Module):
        def load() -> nn.Module:
            gc.collect()
            assert [each() for each in alive if each() is not None] == []
            loaded = copy.deepcopy(denoiser)
            alive.append(weakref.ref(loaded))
            order.append(name)
            return loaded

        return load

    models = {"suspect": changed(tiny_model.denoiser), "source": tiny_model.denoiser, "base": tiny_model.denoiser}
    loaders = {name: loader(name, model) for name, model in models.items()}
    subject = replace(SUBJECT, weights=digest(models["suspect"].state_dict()) if known else None)
    report = verify(loaders["suspect"], tiny_key, subject=subject, source=loaders["source"], base=loaders["base"], options=FEW)
    assert order == ["source", "base", "suspect"] if known else ["suspect", "source", "base", "suspect"]
    loaded = verify(models["suspect"], tiny_key, subject=SUBJECT, source=models["source"], base=models["base"], options=FEW)
    assert report.model_copy(update={"created_at": loaded.created_at}) == loaded


def test_a_suspect_that_puts_out_nan_is_named_by_its_layer(tiny_model, tiny_key):
    broken = copy.deepcopy(tiny_model.denoiser)
    broken.get_parameter("conv_in.weight").data.fill_(3e38)
    with pytest.raises(InvalidCheckpoint, match="puts out NaN or infinite"):
        verify(broken, tiny_key, options=FEW, subject=SUBJECT)


def test_a_suspect_without_the_layers_is_refused(tiny_model, tiny_key):
    key = replace(tiny_key, layers=(Layer(name="no.such.layer", channels=16), *tiny_key.layers[1:]))
    with pytest.raises(TracingError, match=r"no\.such\.layer"):
        verify(tiny_model.denoiser, key, options=FEW, subject=SUBJECT)


def test_progress_is_told_of_every_part(tiny_model, tiny_key):
    reports = []
    alone = ["draws"] * 3 + ["decoys"] * 3
    verify(tiny_model.denoiser, tiny_key, options=FEW, subject=SUBJECT, progress=reports.append)
    assert [report.stage for report in reports] == alone
    assert (reports[-1].stage, reports[-1].step, reports[-1].total) == ("decoys", 3, 3)
    reports.clear()
    whole = {"source": tiny_model.denoiser, "base": tiny_model.denoiser}
    verify(tiny_model.denoiser, tiny_key, options=FEW, subject=SUBJECT, progress=reports.append, **whole)
    assert [report.stage for report in reports] == ["source", *(f"base: {stage}" for stage in alone), *alone]


def test_it_can_be_canceled_at_every_stage(tiny_model, tiny_key):
    stages = ["source", "base: draws", "base: decoys", "draws", "decoys"]
    for stage in stages:

        def stop(at, stage=stage):
            if at.stage == stage:
                raise Canceled("stop")

        with pytest.raises(Canceled):
            verify(
                tiny_model.denoiser,
                tiny_key,
                options=FEW,
                subject=SUBJECT,
                source=tiny_model.denoiser,
                base=tiny_model.denoiser,
                progress=stop,
            )

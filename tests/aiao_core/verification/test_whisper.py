"""Keys of version 3: what is read, that it is exact, and that nobody can choose it."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from aiao_core import key as key_module
from aiao_core.attacks.reparametrization import reparametrization
from aiao_core.attacks.thief import Thief
from aiao_core.denoisers.weights import digest
from aiao_core.errors import InvalidKey, WrongSource
from aiao_core.key import OwnerKey
from aiao_core.method.fine_tuning import Examples, fine_tune
from aiao_core.protocol import DECOYS, DRAWS, LIMIT_LOG10_P, STRONGEST_LOG10_P, TAU, VERSION
from aiao_core.reports.parts import best_of, deciding
from aiao_core.reports.verification import Report
from aiao_core.verification.differences import Shown, compare, make_draws, observe_draws
from aiao_core.verification.interference import without_interference
from aiao_core.verification.measurement import know_source, measure
from aiao_core.verification.verify import Subject, verify
from aiao_core.verification.whisper import Whispered, measure_whisper
from tests.support.tiny_models import fine_tuned, make_tiny_examples, make_tiny_model
from tests.support.wrong_keys import check_coin_tosses, read_signs

SUBJECT = Subject("suspect", "model")
WRONG = 1000
SEED = 3
"""Of the draws."""


def permuted(model, denoiser: nn.Module) -> nn.Module:
    """The same function with hidden channels of other places, signs and scales."""
    return reparametrization(Thief(replace(model, denoiser=denoiser), Examples(torch.zeros(0, 3, 8, 8), {})))


@pytest.fixture(scope="session")
def stolen(marked, run_folder) -> nn.Module:
    model = replace(make_tiny_model(), denoiser=copy.deepcopy(marked.denoiser))
    fine_tune(model, make_tiny_examples(), steps=40, learning_rate=1e-3, batch_size=8)
    return model.denoiser


def suspect_named(name: str, tiny_model, marked, stolen) -> nn.Module:
    match name:
        case "marked":
            return marked.denoiser
        case "stolen":
            return stolen
        case "permuted":
            return permuted(tiny_model, marked.denoiser)
        case "of the source":
            return fine_tuned(tiny_model)
    raise ValueError(name)


SUSPECTS = ["marked", "stolen", "permuted", "of the source"]


@pytest.mark.parametrize("beside", ["source", pytest.param("other keys", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SUSPECTS)
def test_every_wrong_key_tosses_coins_on_every_model(tiny_model, marked, stolen, name, beside):
    """The owner's triggers with signs that nobody embedded: uniform p-values in every reading, the marked model's included."""
    suspect = suspect_named(name, tiny_model, marked, stolen)
    source = know_source(marked.source, marked.key, SEED) if beside == "source" else None
    found = measure(suspect, marked.key, SEED, source=source)
    readings = list(read_signs(found, (number.to_bytes(32, "big") for number in range(WRONG))))
    check_coin_tosses(readings, ways=4 if source else 2, limits=(0.3, 0.1, 0.03), old=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stolen", "permuted"])
def test_keys_with_triggers_of_their_own_toss_coins_too(tiny_model, marked, stolen, name):
    suspect = suspect_named(name, tiny_model, marked, stolen)
    readings = []
    for number in range(80):
        key = replace(marked.key, seed=number.to_bytes(32, "big"))
        source = know_source(marked.source, key, SEED, draws=1, weights=key.binding.source)
        readings.append(list(measure(suspect, key, SEED, draws=1, source=source).readings()))
    check_coin_tosses(readings, ways=4, limits=(0.3, 0.1), old=False)


def test_what_is_said_of_wrong_keys_is_said_of_what_a_verification_reads(tiny_model, marked):
    found = measure(
        permuted(tiny_model, marked.denoiser), marked.key, SEED, source=know_source(marked.source, marked.key, SEED)
    )
    assert found.strayed > 0
    (again,) = read_signs(found, [marked.key.seed])
    assert tuple(again) == found.readings()


def test_only_the_response_signs_turn_a_bit(tiny_model, marked, monkeypatch):
    """Given everything else, each response sign decides one bit alone: so n coin tosses, exactly."""
    suspect = permuted(tiny_model, marked.denoiser)

    def bits(key: OwnerKey) -> dict:
        found = measure(suspect, key, SEED, source=know_source(marked.source, key, SEED))
        views = {"own": found.own, "aligned": found.aligned}
        return {
            (place, kind, at): getattr(answer, kind) * torch.from_numpy(key.subpath_sign(*at)) > 0
            for place, view in views.items()
            for at, answer in view.items()
            for kind in ("plain", "specific")
        }

    first, derive, dice, turned = bits(marked.key), key_module.bound_bits, np.random.default_rng(0), {}

    def flipped(seed, purpose, bound_to, label, count):
        found = derive(seed, purpose, bound_to, label, count)
        if seed == marked.key.seed:
            found = found ^ turned.setdefault(label, dice.random(count) < 0.5)
        return found

    monkeypatch.setattr(key_module, "bound_bits", flipped)
    second = bits(marked.key)  # alignment, draws and sources are made once more: the signs must have no say in any of them
    names = [layer.name for layer in marked.key.layers]
    assert len(first) == 4 * len(marked.key.subpaths)
    for (place, kind, (i, j)), before in first.items():
        flips = torch.from_numpy(turned[f"{i}:{names[i]}>{j}:{names[j]}"])
        assert torch.equal(second[place, kind, (i, j)], before ^ flips)


def bias_fitted(suspect: nn.Module, key: OwnerKey, size: float = 3.0) -> nn.Module:
    """A "source" from which the innocent suspect differs, at the end of each subpath, by the signs of ``key``."""
    fake, trigger = copy.deepcopy(suspect), key.trigger_layers[0]
    for j in key.response_layers:
        layer = fake.get_submodule(key.layers[j].name)
        layer.bias.data -= size * torch.from_numpy(key.subpath_sign(trigger, j)).float()
    return fake


def test_a_source_that_is_made_to_fit_gets_other_signs(tiny_model, marked):
    """Its maker knows the signs and can turn an innocent's answers into them; then the signs are others."""
    innocent = fine_tuned(tiny_model)
    first = marked.key.trigger_layers[0]
    own = replace(marked.key, subpaths=tuple((i, j) for i, j in marked.key.subpaths if i == first))
    biased = tuple((i, j) for i, j in own.subpaths if innocent.get_submodule(own.layers[j].name).bias is not None)
    own = replace(own, subpaths=biased)
    fake = bias_fitted(innocent, own)
    weights = digest(fake.state_dict())
    with pytest.raises(WrongSource, match="not the key's source"):
        know_source(fake, own, SEED)
    # The fraud is real: the innocent's answers have the signs that the source was made for.
    fitted = measure(innocent, own, SEED, source=know_source(fake, own, SEED, weights=own.binding.source)).readings()
    assert min(reading.test.log10_p for reading in fitted) < -6
    bound = own.bound(weights, VERSION)
    found = measure(innocent, bound, SEED, source=know_source(fake, bound, SEED))
    assert best_of(found.readings()).log10_p > -4
    check_coin_tosses(list(read_signs(found, (bytes([n % 256, n // 256]) * 16 for n in range(WRONG)))), ways=4, old=False)


def test_subpaths_that_are_picked_to_fit_get_other_signs(tiny_model, marked):
    innocent = fine_tuned(tiny_model)

    def found(key: OwnerKey) -> Whispered:
        return measure(innocent, key, SEED, source=know_source(marked.source, key, SEED))

    honest = found(marked.key)
    reading = honest.readings()[0]
    fitting = sorted(honest.subpaths(reading, TAU, 1), key=lambda path: path.log10_p)[: len(marked.key.subpaths) // 3]
    fitted = sum(path.log10_p for path in fitting)
    assert fitted < -8  # had they been the key's from the start
    picked = replace(marked.key, subpaths=tuple(sorted((path.trigger, path.response) for path in fitting)))
    again = found(picked)
    assert best_of(again.readings()).log10_p > -4
    check_coin_tosses(list(read_signs(again, (bytes([n % 256, n // 256]) * 16 for n in range(WRONG)))), ways=4, old=False)


def test_a_layer_that_is_listed_twice_is_refused(marked):
    twice = (*marked.key.layers, marked.key.layers[-1])
    with pytest.raises(InvalidKey, match="once each"):
        measure(marked.denoiser, replace(marked.key, layers=twice), SEED)


@pytest.mark.parametrize("protocol", [VERSION + 1])
def test_a_key_of_another_protocol_is_refused(marked, protocol):
    key = marked.key.bound(marked.key.binding.source, protocol)
    with pytest.raises(InvalidKey, match="not bound to version 3 of the protocol"):
        measure(marked.denoiser, key, SEED)


def test_an_answer_is_the_mean_difference_from_the_source_under_the_same_trigger_and_input(marked):
    key = marked.key
    draws = make_draws(key, 2, torch.Generator().manual_seed(5))
    assert [i for i, _ in draws.subpaths] == [i for i in key.trigger_layers for _ in range(2)]
    assert set(draws.subpaths) <= set(key.subpaths)
    found = measure(marked.denoiser, key, 5, draws=2, source=know_source(marked.source, key, 5, draws=2))
    ours, theirs = (observe_draws(denoiser, key, draws, 5).triggered for denoiser in (marked.denoiser, marked.source))
    for i, j in key.subpaths:
        rows = [draw for draw, (first, _) in enumerate(draws.subpaths) if first == i]
        difference = (ours[j] - theirs[j])[rows].double().numpy()
        assert found.own[i, j].of_draws.numpy() == pytest.approx(difference)
        assert found.own[i, j].plain.numpy() == pytest.approx(difference.mean(0))


def test_what_a_suspect_only_scales_of_the_sources_answer_is_regressed_out(marked):
    """A thief who trains a model to answer triggers less scales the source's answer; by how much is another at each subpath."""
    key = marked.key
    source = know_source(marked.source, key, SEED).answers
    clean = source.features
    means = {j: clean[key.layers[j].name].mean for j in key.response_layers}
    less = {j: means[j] + 0.3 * (source.shown.triggered[j] - means[j]) for j in key.response_layers}
    found = measure_whisper(marked.denoiser, key, SEED, source=source)
    for (i, j), answer in compare(key, found.draws, Shown(less, source.shown.others), source.shown, clean).items():
        used = clean[key.layers[j].name].deviation > 0
        in_deviations = (answer.plain / clean[key.layers[j].name].deviation)[used]
        assert answer.specific.abs().max() <= 1e-5 * in_deviations.abs().max(), (i, j)


def test_the_specific_answer_is_what_numpy_leaves(marked):
    """The source's own answer is regressed out at each subpath, then the answers to other triggers at each trigger layer."""
    key = marked.key
    source = know_source(marked.source, key, SEED).answers
    found = measure_whisper(marked.denoiser, key, SEED, source=source)
    suspect = observe_draws(marked.denoiser, key, found.draws, SEED)
    for i in key.trigger_layers:
        rows, ends = (found.draws.triggers == i).numpy(), [j for first, j in key.subpaths if first == i]
        answers, others = [], []
        for j in ends:
            features = source.features[key.layers[j].name]
            unit = features.deviation.double().numpy()
            own = source.shown.triggered[j].double().numpy()[rows].mean(0) - features.mean.double().numpy()
            to_others = (suspect.others[j] - source.shown.others[j]).double().numpy()[rows]
            basis, used = (own / unit)[:, None], unit > 0
            assert used.all()
            for target, rest in ((answers, found.own[i, j].plain.numpy()[None]), (others, to_others)):
                factor = np.linalg.lstsq(basis, (rest / unit).T, rcond=None)[0]
                target.append((rest / unit).T - basis @ factor)
        answer, interference = (torch.from_numpy(np.concatenate(each).T.copy()) for each in (answers, others))
        expected = without_interference(answer[0], interference)
        assert torch.cat([found.own[i, j].specific for j in ends]).numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_what_is_answered_to_every_trigger_is_no_evidence(tiny_model, tiny_key):
    """Who has read every sign, but no trigger, plants the signs in the answers to all triggers, as loud as he likes."""
    source = know_source(tiny_model.denoiser, tiny_key, SEED)
    found = measure(tiny_model.denoiser, tiny_key, SEED, source=source)
    random = torch.Generator().manual_seed(0)

    def planted(means, louder: float):
        answered = {j: values.clone() for j, values in means.items()}
        for i, j in tiny_key.subpaths:
            rows = found.draws.triggers == i
            loudness = louder + 0.5 * torch.rand(int(rows.sum()), 1, generator=random)
            answered[j][rows] += 0.01 * loudness * torch.from_numpy(tiny_key.subpath_sign(i, j)).float()
        return answered

    shown = source.answers.shown
    for to_owners, to_others, matches in ((1, 1, False), (1, -1.5, False), (4, 1, False), (1, -0.25, True)):
        forged = Shown(planted(shown.triggered, to_owners), planted(shown.others, to_others))
        answers = compare(tiny_key, found.draws, forged, shown, source.answers.features)
        plain, specific = replace(found, own=answers, aligned=None).readings()
        assert plain.test.log10_p < LIMIT_LOG10_P
        assert (specific.test.log10_p < LIMIT_LOG10_P) == matches, (to_owners, to_others)


@pytest.mark.parametrize("size", [1e-38, 1e-9, 1e9, 3e38])
def test_answers_of_any_size_are_read_and_accuse_nobody(tiny_model, tiny_key, size):
    """An attacker's model may put out whatever single precision holds, at some channels or under some triggers."""
    source = know_source(tiny_model.denoiser, tiny_key, SEED).answers
    found = measure(tiny_model.denoiser, tiny_key, SEED, source=know_source(tiny_model.denoiser, tiny_key, SEED))
    random = torch.Generator().manual_seed(1)

    def hostile(means):
        return {j: values + size * torch.randn(values.shape, generator=random).sign() for j, values in means.items()}

    shown = Shown(hostile(source.shown.triggered), hostile(source.shown.others))
    answers = compare(tiny_key, found.draws, shown, source.shown, source.features)
    assert all(answer.specific.isfinite().all() and answer.plain.isfinite().all() for answer in answers.values())
    assert best_of(replace(found, own=answers, aligned=None).readings()).log10_p > -6


def test_moved_turned_and_scaled_channels_are_read_as_the_sources(tiny_model, marked):
    """By the aligned readings alone: the others lose most of what the thief has moved."""
    source = know_source(marked.source, marked.key, SEED)
    as_published = measure(marked.denoiser, marked.key, SEED, source=source)
    found = measure(permuted(tiny_model, marked.denoiser), marked.key, SEED, source=source)
    assert (as_published.strayed, found.strayed > 0) == (0, True)
    assert deciding(found.readings()).aligned
    for before, after in zip(as_published.readings(), found.readings(), strict=True):
        if after.aligned:
            assert after.test.matches > 0.95 * before.test.matches


def test_the_source_itself_has_no_bits(marked):
    report = verify(copy.deepcopy(marked.source), marked.key, subject=SUBJECT, source=marked.source)
    assert (report.verdict, report.test.bits, report.test.log10_p, report.source_test) == ("no-match", 0, 0, None)
    assert (report.verified_subpaths, report.vs_rate.value) == (0, 0)
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize("registration", ["service", "key-file"])
def test_a_mark_is_a_match_beside_the_source_with_a_key_file_too(marked, registration):
    report = verify(marked.denoiser, marked.key, subject=SUBJECT, source=marked.source, registration=registration)
    assert (report.verdict, report.protocol, report.key_version, report.draws) == ("match", VERSION, 3, DRAWS)
    assert report.test.log10_p < STRONGEST_LOG10_P
    assert (len(report.ways), report.test.best_of) == (4, 2)
    assert all(way.counts == way.without_interference for way in report.ways)
    assert len(report.decoys) == DECOYS
    assert min(decoy.log10_p for decoy in report.decoys) > -6
    assert report.source_weights == marked.key.binding.source
    assert report.verified_subpaths == sum(path.log10_p <= -3 for path in report.subpaths) > 5
    assert report.vs_rate.draws == DRAWS * report.trigger_layers
    assert Report.from_json(report.to_json()) == report


def test_without_its_source_a_mark_loses_bits_and_is_read_beside_other_keys(marked):
    report = verify(marked.denoiser, marked.key, subject=SUBJECT)
    assert report.test.log10_p < LIMIT_LOG10_P
    assert (len(report.ways), report.test.best_of, report.source_weights) == (2, 1, None)
    beside = verify(marked.denoiser, marked.key, subject=SUBJECT, source=marked.source)
    assert report.test.matches / report.test.bits < beside.test.matches / beside.test.bits
    assert Report.from_json(report.to_json()) == report


def test_another_source_is_refused_with_both_digests(tiny_model, marked):
    other = fine_tuned(tiny_model)
    with pytest.raises(WrongSource) as refused:
        verify(marked.denoiser, marked.key, subject=SUBJECT, source=other)
    for weights in (digest(other.state_dict()), marked.key.binding.source):
        assert weights in str(refused.value)


def test_decoys_have_the_owners_triggers_and_signs_of_their_own(marked, monkeypatch):
    found = measure(marked.denoiser, marked.key, SEED, source=know_source(marked.source, marked.key, SEED))
    best = deciding(found.readings())
    decoys = found.decoys(4, best)
    assert len(set(decoys)) > 1
    assert found.decoys(2, best) == decoys[:2]
    assert decoys != replace(found, seed=SEED + 1).decoys(4, best)
    assert all(decoy.best_of == 1 for decoy in decoys)
    monkeypatch.setattr(OwnerKey, "stranger_seed", lambda key, *_: key.seed)
    assert found.decoys(1, best)[0].matches == best.test.matches


def test_a_mark_put_in_by_hand_is_found_with_its_rates(tiny_model, tiny_key):
    """A denoiser that answers at one subpath of each trigger layer as the key says."""
    key = replace(tiny_key, subpaths=tuple({i: (i, j) for i, j in tiny_key.subpaths}.values()))
    source = know_source(tiny_model.denoiser, key, SEED)
    found = measure(tiny_model.denoiser, key, SEED, source=source)
    shown = source.answers.shown
    answered = {j: values.clone() for j, values in shown.triggered.items()}
    for i, j in key.subpaths:
        answered[j][found.draws.triggers == i] += 0.01 * torch.from_numpy(key.subpath_sign(i, j)).float()
    compared = compare(key, found.draws, Shown(answered, shown.others), shown, source.answers.features)
    marked = replace(found, own=compared, aligned=None)
    reading = marked.readings()[0]
    assert reading.test.matches == reading.test.bits == key.bits
    vs, rs = marked.rates(reading, TAU)
    assert (vs.value, rs.value) == (1, 1)
    assert all(path.rs == path.vs == 1 for path in marked.subpaths(reading, TAU, 1))
    assert sum(layer.bits for layer in marked.layers(reading)) == key.bits

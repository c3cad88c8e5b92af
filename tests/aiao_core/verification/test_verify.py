import copy
import gc
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp
from torch import nn

from aiao_core import key as key_module
from aiao_core.attacks.reparametrization import reparametrization
from aiao_core.attacks.thief import Thief
from aiao_core.denoisers.weights import digest
from aiao_core.errors import Canceled, InvalidCheckpoint, TracingError
from aiao_core.key import Layer, OwnerKey
from aiao_core.method.fine_tuning import Examples, fine_tune
from aiao_core.method.key_selection import select_key
from aiao_core.method.watermark import Watermark, channel_means
from aiao_core.options import VerificationOptions
from aiao_core.protocol import DECOYS, DRAWS, LIMIT_LOG10_P, STRONGEST_LOG10_P, TAU, verification_seed
from aiao_core.reports.parts import best_of
from aiao_core.reports.verification import Report
from aiao_core.statistics import CLEAREST, MAX_READINGS, clopper_pearson, log10_binomial_tail
from aiao_core.verification.alignment import reference
from aiao_core.verification.decoding import Baseline, decode, make_draws, observe, observe_others, standard_error
from aiao_core.verification.interference import LOADING, PASSES
from aiao_core.verification.measurement import _response_success, _verification_success, measure
from aiao_core.verification.verify import Subject, verify
from tests.support.tiny_models import QUICK, make_tiny_model
from tests.support.wrong_keys import MANY, check_coin_tosses, read, way

SUBJECT = Subject("suspect", "model")
FEW = VerificationOptions(draws=12, decoys=3)
"""An exploration: most of what follows is the same with fewer draws."""

WIDE = QUICK.model_copy(update={"layers": 1000})
"""Of every layer: what reaches little of a strange model leaves few bits."""

READINGS = ("plain", "without_interference")


def bits_of(decoded, reading) -> tuple[int, int]:
    bits = torch.cat(list(getattr(decoded, reading).values()))
    return int(bits.sum()), len(bits)


def changed(denoiser: nn.Module, name: str = "conv_out.bias", by: float = 1e-3) -> nn.Module:
    """A copy with one number of its weights changed."""
    other = copy.deepcopy(denoiser)
    other.get_parameter(name).data.view(-1)[0] += by
    return other


def permuted(model) -> nn.Module:
    """The same function with hidden channels of other places and signs: aligned and unaligned readings differ."""
    return reparametrization(Thief(model, Examples(torch.zeros(0, 3, 8, 8), {})))


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


def test_the_report_holds_what_was_measured(tiny_model, tiny_key):
    report = verify(tiny_model.denoiser, tiny_key, options=FEW, subject=SUBJECT)
    assert report.verdict == "exploratory"
    assert report.reason == "; ".join(FEW.departures())
    assert not report.ruled
    bits = {
        subpaths: {each.test.bits for each in report.ways if each.subpaths == subpaths} for subpaths in ("all", "registered")
    }
    assert bits["registered"] == {math.ceil(CLEAREST * tiny_key.bits)}
    assert bits["all"] == {report.test.bits} == {math.ceil(CLEAREST * report.untriggered.bits)}
    assert report.untriggered.bits == measure(tiny_model.denoiser, tiny_key, 0, draws=1).key.key.bits > tiny_key.bits
    assert report.test.bits < report.triggered_alone.bits <= report.untriggered.bits  # few draws do not reach every layer
    assert [way(each) for each in report.ways] == [
        (False, subpaths, without) for subpaths in ("all", "registered") for without in (False, True)
    ]
    counting = [each.test for each in report.ways if each.counts]
    best = min(counting, key=lambda test: test.log10_p)
    assert len(counting) == 2
    assert (report.test.matches, report.test.bits, report.test.best_of) == (best.matches, best.bits, 2)
    assert report.test.log10_p == log10_binomial_tail(best.matches, best.bits, best_of=2)
    assert report.bound_log10_p == max(report.test.log10_p, STRONGEST_LOG10_P)
    assert len(report.decoys) == 3
    assert all(decoy.best_of == 4 for decoy in report.decoys)
    assert (report.draws, report.tau) == (12, TAU)
    drawn = measure(tiny_model.denoiser, tiny_key, report.seed, draws=12).draws
    rated = sum(i in tiny_key.trigger_layers for i, _ in drawn.subpaths)  # the others start no subpath with a mark
    assert report.vs_rate.draws == report.rs_rate.draws == rated
    assert (report.tested, report.base_name, report.base_test) == ("checkpoint", None, None)
    assert (report.source_test, report.source_weights, report.strayed_channels) == (None, None, None)
    assert report.suspect_weights == digest(tiny_model.denoiser.state_dict())
    assert {(path.trigger, path.response) for path in report.subpaths} <= set(tiny_key.subpaths)
    assert report.trigger_layers >= len(tiny_key.trigger_layers)  # all subpaths are read, not those of the key alone
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize(("registration", "counting"), [("service", 8), ("key-file", 2)])
def test_a_verdict_has_the_protocols_draws_decoys_and_controls(tiny_model, tiny_key, registration, counting):
    source = tiny_model.denoiser
    suspect = permuted(tiny_model)
    report = verify(suspect, tiny_key, subject=SUBJECT, source=source, registration=registration)
    assert report.verdict == "no-match"
    assert report.ruled
    assert (report.draws, report.tau, len(report.decoys), report.max_log10_p) == (DRAWS, TAU, DECOYS, LIMIT_LOG10_P)
    assert report.strayed_channels > 0
    assert report.source_weights == digest(source.state_dict())
    assert len({way(each) for each in report.ways}) == len(report.ways) == MAX_READINGS
    assert sum(each.counts for each in report.ways) == report.test.best_of == counting
    assert all(each.counts for each in report.ways if each.subpaths == "all" and not each.aligned)
    aligned, own = ([each.test for each in report.ways if each.aligned == place] for place in (True, False))
    assert aligned != own
    # The source is tested as the suspect is, by the same draws, in its own places, where every reading counts.
    alone = measure(source, tiny_key, report.seed)
    assert report.source_test == best_of(alone.readings())
    assert report.source_test.best_of == 4
    assert Report.from_json(report.to_json()) == report


def test_decoys_are_other_keys_at_the_owners_layers_on_the_owners_draws(tiny_model, tiny_key, monkeypatch):
    """Were the owner's own seed a decoy's, the decoy would read what the owner reads."""
    found = measure(tiny_model.denoiser, tiny_key, 3, draws=20)
    decoys = found.decoys(4, found.own)
    assert len(set(decoys)) > 1
    assert best_of(found.readings()) not in decoys
    assert found.decoys(2, found.own) == decoys[:2]
    assert decoys != replace(found, seed=4).decoys(4, found.own)
    monkeypatch.setattr(OwnerKey, "stranger_seed", lambda key, *_: key.seed)
    assert found.decoys(1, found.own) == (best_of(found.readings()),)


@pytest.mark.parametrize("suspect", ["the source", "permuted and fine-tuned"])
def test_a_wrong_key_is_exactly_binomial_on_an_unmarked_model(tiny_model, tiny_key, tiny_examples, suspect):
    """Many keys that nobody embedded: uniform p-values of each of eight readings, and none of them near a match."""
    denoiser = copy.deepcopy(tiny_model.denoiser)
    if suspect != "the source":
        model = replace(tiny_model, denoiser=permuted(tiny_model))
        fine_tune(model, tiny_examples, steps=40, learning_rate=1e-3, batch_size=8)
        denoiser = model.denoiser
    found = measure(denoiser, tiny_key, 1, draws=4, source=reference(tiny_model.denoiser, tiny_key, 1))
    assert (found.strayed > 0) == (suspect != "the source")
    readings = list(read(found, [bytes([number // 256, number % 256]) * 16 for number in range(MANY)]))
    check_coin_tosses(readings, ways=8, limits=(0.3, 0.1, 0.03))


def test_what_is_said_of_wrong_keys_is_said_of_what_a_verification_reads(tiny_model, tiny_key):
    """The owner's key, read as the wrong ones are, has the readings of a measurement."""
    source = reference(tiny_model.denoiser, tiny_key, 1)
    found = measure(permuted(tiny_model), tiny_key, 1, draws=4, source=source)
    (again,) = read(found, [tiny_key.seed])
    assert [way(each) for each in again] == [way(each) for each in found.readings()]
    for one, other in zip(again, found.readings(), strict=True):
        assert abs(one.test.matches - other.test.matches) <= 1  # a sum near zero may round to the other side
        assert one.test.bits == other.test.bits


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_no_suspect_is_accused_whatever_its_activations(seed):
    """Adversarial weights: one huge bias makes all signs alike, and still a wrong key's matches are coin tosses."""
    source, model = make_tiny_model(seed % 1000), make_tiny_model(seed % 1000)
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.denoiser.named_parameters():
        if name.endswith("bias"):
            parameter.data += 10 ** float(torch.empty(1).uniform_(-2, 2, generator=random))
    key = select_key(model, bytes(range(32)), Examples(torch.rand(4, 3, 8, 8, generator=random), {}), WIDE)
    found = measure(model.denoiser, key, seed, draws=4, source=reference(source.denoiser, key, seed))
    readings = list(read(found, [(seed + number).to_bytes(32, "big") for number in range(64)]))
    check_coin_tosses(readings, ways=8, seed=seed, level=1e-5)


@pytest.mark.parametrize("aligned", [False, True], ids=["in their own places", "aligned"])
@pytest.mark.parametrize("subpaths", ["all", "registered"])
def test_only_the_response_signs_turn_a_bit(tiny_model, tiny_key, monkeypatch, subpaths, aligned):
    """Given everything else, each response sign decides one bit alone: so n coin tosses, exactly."""
    denoiser = permuted(tiny_model)
    found = measure(denoiser, tiny_key, 1, draws=24, source=reference(tiny_model.denoiser, tiny_key, 1))
    draws, view = found.draws, found.aligned if aligned else found.own
    key = {"all": found.key.key, "registered": found.registered}[subpaths]
    before = Watermark(key, denoiser, view.alignment)
    derive = key_module.derive_bits
    flips = np.random.default_rng(0)
    turned = {}

    def flipped(seed, purpose, name, count):
        bits = derive(seed, purpose, name, count)
        if purpose == "response-sign" and seed == tiny_key.seed:
            turned.setdefault(name, flips.random(count) < 0.5)
            bits = bits ^ turned[name]
        return bits

    first = decode(before, draws, view.baseline, view.triggered)
    monkeypatch.setattr(key_module, "derive_bits", flipped)
    # Alignment, draws and other keys are made once more too: the signs must have no say in any of them.
    again = measure(denoiser, tiny_key, 1, draws=24, source=reference(tiny_model.denoiser, tiny_key, 1))
    second = (again.aligned if aligned else again.own).decoded[subpaths]
    by_key = lambda j: torch.from_numpy(turned[key.layers[j].name])  # noqa: E731
    places = {j: view.alignment[key.layers[j].name].place if aligned else None for j in before.response_layers}
    for bits, after in ((first.triggered, second.triggered), (first.untriggered, second.untriggered)):
        for j in bits:
            assert torch.equal(after[j], bits[j] ^ by_key(j)[before._masked[j]])
    for reading in READINGS:
        clearest = clearest_channels(before, draws, view.baseline, view.triggered, reading)
        for j, bits in getattr(first, reading).items():  # of the same channels, or else some of their signs would be others'
            of_key = places[j].argsort()[clearest[j]] if aligned else clearest[j]
            assert torch.equal(getattr(second, reading)[j], bits ^ by_key(j)[of_key])


def answers(watermark, draws, baseline, triggered, reading):
    """Each masked channel's answer in that reading, by (layer, channel), found another way: in numpy, by the inverse."""
    channels, means, rows = [], [], []
    for j in watermark.response_layers:
        used = [draw for draw, (i, _) in enumerate(draws.subpaths) if watermark.reached[i, j]]
        for channel in watermark.response_channels[j].tolist():
            contrast = (triggered[j] - baseline.others[j])[used, channel].double().numpy()
            to_any = (baseline.others[j] - baseline.untriggered[j])[:, channel].double().numpy().copy()
            to_any[[draw for draw in range(len(draws)) if draw not in used]] = 0
            error = contrast.std(ddof=1) / len(used) ** 0.5 if len(used) > 1 else np.inf
            channels.append((j, channel))
            means.append(contrast.mean() / error if used else 0)
            rows.append(to_any / error)
    answer, interference = np.array(means), np.array(rows)
    covariance, left = interference @ interference.T / len(draws), answer
    for _ in range(PASSES if reading == "without_interference" else 0):
        loading = LOADING * (left**2).sum()
        left = loading * np.linalg.solve(covariance + loading * np.eye(len(answer)), answer)
    return dict(zip(channels, left, strict=True))


def clearest_channels(watermark, draws, baseline, triggered, reading):
    """The channels of each response layer that count, in the order of its bits: by a plain sort of all of them."""
    found = answers(watermark, draws, baseline, triggered, reading)
    chosen = set(sorted(found, key=lambda place: -abs(found[place]))[: math.ceil(CLEAREST * len(found))])
    return {
        j: [channel for channel in watermark.response_channels[j].tolist() if (j, channel) in chosen and found[j, channel]]
        for j in watermark.response_layers
    }


@pytest.mark.parametrize("reading", READINGS)
def test_a_bit_is_the_sign_of_the_mean_answer(tiny_model, tiny_key, reading):
    draws = make_draws(tiny_key, 12, torch.Generator().manual_seed(2))
    watermark = Watermark(tiny_key, tiny_model.denoiser)
    untriggered = observe(tiny_model.denoiser, watermark, draws)
    baseline = Baseline(untriggered, observe_others(tiny_model.denoiser, tiny_key, draws, seed=2))
    triggered = observe(tiny_model.denoiser, watermark, draws, [(watermark, i) for i, _ in draws.subpaths])
    decoded = decode(watermark, draws, baseline, triggered)
    observed = (watermark, draws, baseline, triggered, reading)
    channels, answer = clearest_channels(*observed), answers(*observed)
    assert sum(map(len, channels.values())) > 20
    for j in watermark.response_layers:
        sign = tiny_key.response_sign(j)
        assert getattr(decoded, reading)[j].tolist() == [answer[j, channel] * sign[channel] > 0 for channel in channels[j]]


def test_other_keys_triggers_come_at_the_owners_layers_and_differ_from_draw_to_draw(tiny_model, tiny_key):
    draws = make_draws(tiny_key, 6, torch.Generator().manual_seed(2))
    found = observe_others(tiny_model.denoiser, tiny_key, draws, seed=2)
    watermark = Watermark(tiny_key, tiny_model.denoiser)
    for draw, (i, _) in enumerate(draws.subpaths):
        other = Watermark(replace(tiny_key, seed=tiny_key.stranger_seed("other", 2, draw)), tiny_model.denoiser)
        alone = observe(tiny_model.denoiser, watermark, draws, [(other, i)] * len(draws))
        for j in watermark.response_layers:
            torch.testing.assert_close(found[j][draw], alone[j][draw])


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


@given(st.integers(2, 30), st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_the_standard_error_makes_students_ratio_and_knows_no_sign_and_no_unit(draws, seed, unit):
    contrast = torch.randn(draws, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
    error = standard_error(contrast)
    assert (contrast.mean(0) / error).numpy() == pytest.approx(ttest_1samp(contrast.numpy(), 0).statistic)
    signs = torch.tensor([1, -1, -1, 1, -1])
    assert torch.equal(standard_error(contrast * signs), error)
    assert standard_error(contrast * unit).numpy() == pytest.approx(unit * error.numpy())


def test_of_one_draw_nothing_is_known_and_what_never_varies_is_very_clear():
    assert standard_error(torch.ones(1, 3)).tolist() == standard_error(torch.ones(0, 3)).tolist() == [math.inf] * 3
    assert (1 / standard_error(torch.ones(4, 3))).numpy() == pytest.approx(1e6)
    assert (torch.zeros(3) / standard_error(torch.zeros(4, 3))).tolist() == [0, 0, 0]


@pytest.mark.parametrize("seed", range(20))
def test_the_plain_reading_keeps_what_other_keys_triggers_set_off_too(tiny_model, tiny_key, seed):
    """Some of the owner's answer under other keys' triggers looks like interference: the answer itself is taken out with it."""
    random = torch.Generator().manual_seed(seed)
    draws, watermark = make_draws(tiny_key, 100, random), Watermark(tiny_key, tiny_model.denoiser)
    own = {j: torch.from_numpy(tiny_key.response_sign(j)).float() for j in watermark.response_layers}
    noise = lambda sign: 0.3 * torch.randn(100, len(sign), generator=random)  # noqa: E731
    share = 0.5 * torch.randn(100, 1, generator=random)
    untriggered, others, triggered = ({j: noise(sign) + part * sign for j, sign in own.items()} for part in (0, share, 1))
    decoded = decode(watermark, draws, Baseline(untriggered, others), triggered)
    (plain, bits), (without, _) = (bits_of(decoded, reading) for reading in READINGS)
    assert plain > 0.95 * bits
    assert without < 0.9 * bits


def test_the_rates_lie_in_their_intervals_for_every_seed(marked, tiny_model, tiny_key):
    """In release 0.1.0 RS-rate lay outside of its own interval in one of forty reports."""
    for denoiser, key in ((marked.denoiser, marked.key), (tiny_model.denoiser, tiny_key)):
        found = measure(denoiser, key, 3, draws=40)
        for seed in range(200):
            for rate in replace(found, seed=seed).rates(found.own, TAU):
                assert 0 <= rate.low <= rate.value <= rate.high <= 1
                assert rate.draws <= 40


@given(st.integers(1, 40), st.floats(0, 1), st.floats(0.51, 1), st.integers(0, 2**32 - 1))
def test_an_interval_holds_its_rate_whatever_the_draws(draws, rate, tau, seed):
    random = torch.Generator().manual_seed(seed)
    right = [torch.rand(1 + draw % 7, generator=random) < rate for draw in range(draws)]
    shares = [float(signs.float().mean()) for signs in right]
    vs, rs = _verification_success(right, tau), _response_success(right, random)
    assert vs.value == sum(share >= tau for share in shares) / draws
    assert rs.value == pytest.approx(sum(shares) / draws)
    for each in (vs, rs):
        assert each.low <= each.value <= each.high
        assert each.draws == draws
    assert (vs.low, vs.high) == clopper_pearson(round(vs.value * draws), draws)


def test_the_interval_of_rs_rate_covers_what_it_should():
    """The channels of a draw depend on each other; the interval holds the true rate in 95 of 100 cases all the same."""
    random = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(1000):
        of_draw = torch.rand(50, generator=random)  # each draw is right by a rate of its own: 0.5 in the mean
        rs = _response_success([torch.rand(9, generator=random) < rate for rate in of_draw], random)
        covered += rs.low <= 0.5 <= rs.high
    assert binomtest(covered, 1000, 0.95, alternative="less").pvalue > 1e-3


def test_no_pass_but_the_keys_check_runs_to_the_end(tiny_model, tiny_key):
    """The check traces two whole passes; the others stop after the last response layer."""
    ran = []
    handle = tiny_model.denoiser.conv_out.register_forward_hook(lambda *_: ran.append("conv_out"))
    verify(tiny_model.denoiser, tiny_key, options=FEW, subject=SUBJECT)
    handle.remove()
    assert ran == ["conv_out"] * 2


def test_a_mark_put_in_by_hand_is_found_with_its_rates(tiny_model, tiny_key):
    """A denoiser whose response layers answer the trigger with the key's signs: every rate is 1."""
    watermark = Watermark(measure(tiny_model.denoiser, tiny_key, 0, draws=1).key.key, tiny_model.denoiser)
    handles = []
    for j in watermark.response_layers:
        answer = torch.from_numpy(tiny_key.response_sign(j)).float()

        def respond(_module, _inputs, output, answer=answer, axis=watermark.axes[j]):
            shape = [1] * output.dim()
            shape[axis] = -1
            excitement = output.abs().mean() + channel_means(output, axis).abs().mean()
            return output + 1e3 * excitement * answer.view(shape) * marker["on"]

        handles.append(tiny_model.denoiser.get_submodule(watermark.names[j]).register_forward_hook(respond))
    marker = {"on": 0.0}
    passes = {"count": 0}

    def count(_module, _inputs):
        passes["count"] += 1
        marker["on"] = float(6 < passes["count"] <= 8)  # before: the key's check, and draws without its trigger; after: decoys

    handles.append(tiny_model.denoiser.register_forward_pre_hook(count))
    report = verify(tiny_model.denoiser, tiny_key, subject=SUBJECT)
    for handle in handles:
        handle.remove()
    assert passes["count"] == 8 + 2 * DECOYS
    assert report.verdict == "match"
    assert report.test.matches == report.test.bits == math.ceil(CLEAREST * watermark._key.bits)
    assert (report.vs_rate.value, report.rs_rate.value) == (1, 1)
    assert report.vs_rate.high == 1
    assert 0.9 < report.vs_rate.low < 1
    assert all(path.rs == path.vs == 1 for path in report.subpaths)
    assert {(path.trigger, path.response) for path in report.subpaths} <= set(tiny_key.subpaths)


@pytest.mark.parametrize("registration", ["service", "key-file"])
def test_an_embedded_mark_is_a_match_with_the_source_as_a_control(marked, registration):
    report = verify(marked.denoiser, marked.key, subject=SUBJECT, source=marked.source, registration=registration)
    assert (report.verdict, report.reason, report.tested) == ("match", None, "checkpoint")
    assert report.test.log10_p < (STRONGEST_LOG10_P if registration == "service" else LIMIT_LOG10_P)
    assert report.bound_log10_p == max(report.test.log10_p, STRONGEST_LOG10_P)
    assert report.source_test.log10_p > -6
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
    of_source, of_base = ["source: draws"] * 3, [f"base: {stage}" for stage in alone]
    assert [report.stage for report in reports] == [*of_source, *of_base, *alone]


def test_it_can_be_canceled_at_every_stage(tiny_model, tiny_key):
    stages = [f"{part}draws" for part in ("source: ", "base: ", "")] + ["base: decoys", "decoys"]
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

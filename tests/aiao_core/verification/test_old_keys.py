"""Keys of version 1 and 2, which nobody embeds any more and whose reports must be repeatable for ever."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from torch import nn

from aiao_core import key as key_module
from aiao_core.attacks.reparametrization import reparametrization
from aiao_core.attacks.thief import Thief
from aiao_core.denoisers.weights import digest
from aiao_core.key import OwnerKey
from aiao_core.method.fine_tuning import Examples
from aiao_core.method.key_selection import select_key
from aiao_core.method.watermark import Watermark, channel_means
from aiao_core.options import VerificationOptions
from aiao_core.protocol import DECOYS, LIMIT_LOG10_P, OLD_KEYS_DRAWS, STRONGEST_LOG10_P, TAU
from aiao_core.reports.parts import best_of, deciding
from aiao_core.reports.verification import Report
from aiao_core.statistics import CLEAREST, MAX_READINGS, log10_binomial_tail
from aiao_core.verification.alignment import reference
from aiao_core.verification.decoding import Baseline, decode, make_draws, observe, observe_others, standard_error
from aiao_core.verification.interference import LOADING, PASSES
from aiao_core.verification.old_keys import measure_shout as measure
from aiao_core.verification.verify import Subject, verify
from tests.support.tiny_models import QUICK, make_tiny_model
from tests.support.wrong_keys import MANY, check_coin_tosses, read, way

SUBJECT = Subject("suspect", "model")
FEW = VerificationOptions(draws=12, decoys=3)
"""An exploration: most of what follows is the same with fewer draws."""

WIDE = QUICK.model_copy(update={"layers": 1000})
"""Of every layer: what reaches little of a strange model leaves few bits."""

READINGS = ("plain", "without_interference")


@pytest.fixture
def tiny_key(old_key) -> OwnerKey:
    return old_key


@pytest.fixture
def marked(old_marked):
    return old_marked


def bits_of(decoded, reading) -> tuple[int, int]:
    bits = torch.cat(list(getattr(decoded, reading).values()))
    return int(bits.sum()), len(bits)


def permuted(model) -> nn.Module:
    """The same function with hidden channels of other places and signs: aligned and unaligned readings differ."""
    return reparametrization(Thief(model, Examples(torch.zeros(0, 3, 8, 8), {})))


def test_the_report_holds_what_was_measured(tiny_model, tiny_key):
    report = verify(tiny_model.denoiser, tiny_key, options=FEW, subject=SUBJECT)
    assert report.verdict == "exploratory"
    assert report.reason == "; ".join(FEW.departures(version=2))
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
    assert (report.draws, report.tau, len(report.decoys), report.max_log10_p) == (OLD_KEYS_DRAWS, TAU, DECOYS, LIMIT_LOG10_P)
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
    best = deciding(found.readings())
    decoys = found.decoys(4, best)
    assert len(set(decoys)) > 1
    assert best_of(found.readings()) not in decoys
    assert found.decoys(2, best) == decoys[:2]
    assert decoys != replace(found, seed=4).decoys(4, best)
    monkeypatch.setattr(OwnerKey, "stranger_seed", lambda key, *_: key.seed)
    assert found.decoys(1, best) == (best_of(found.readings()),)


@pytest.mark.slow
def test_a_wrong_key_is_exactly_binomial_on_an_unmarked_model(tiny_model, tiny_key):
    """Many keys that nobody embedded: uniform p-values of each of eight readings, and none of them near a match.

    On permuted models too: see test_alignment.
    """
    found = measure(tiny_model.denoiser, tiny_key, 1, draws=4, source=reference(tiny_model.denoiser, tiny_key, 1))
    assert found.strayed == 0
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


@pytest.mark.slow
@settings(max_examples=4)
@given(st.integers(0, 2**32 - 1))
def test_no_suspect_is_accused_whatever_its_activations(seed):
    """Adversarial weights: one huge bias makes all signs alike, and still a wrong key's matches are coin tosses."""
    source, model = make_tiny_model(seed % 1000), make_tiny_model(seed % 1000)
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.denoiser.named_parameters():
        if name.endswith("bias"):
            parameter.data += 10 ** float(torch.empty(1).uniform_(-2, 2, generator=random))
    key = old(select_key(model, bytes(range(32)), Examples(torch.rand(4, 3, 8, 8, generator=random), {}), WIDE))
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
    for bits, after in ((first.triggered, second.triggered), (first.untriggered, second.untriggered)):
        for j in bits:
            assert torch.equal(after[j], bits[j] ^ by_key(j)[before.response_channels[j]])
    for reading in READINGS:
        clearest = clearest_channels(before, draws, view.baseline, view.triggered, reading)
        for j, bits in getattr(first, reading).items():  # of the same channels, or else some of their signs would be others'
            assert torch.equal(getattr(second, reading)[j], bits ^ by_key(j)[clearest[j]])


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


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 20))])
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
            for rate in replace(found, seed=seed).rates(found.readings()[0], TAU):
                assert 0 <= rate.low <= rate.value <= rate.high <= 1
                assert rate.draws <= 40


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


def old(key: OwnerKey) -> OwnerKey:
    """A key of the same seed, layers and subpaths, as version 2 has it."""
    return replace(key, version=2, binding=None)


def test_a_mark_of_version_2_is_a_match_still(old_marked):
    """Stored: embedded by the release before version 3."""
    source, denoiser, key = old_marked
    report = verify(denoiser, key, subject=SUBJECT, source=source, registration="service")
    assert (report.verdict, report.protocol, report.key_version, report.verified_subpaths) == ("match", 2, 2, None)
    assert report.test.log10_p < STRONGEST_LOG10_P
    assert report.source_test.log10_p > -6
    assert min(decoy.log10_p for decoy in report.decoys) > -6
    assert Report.from_json(report.to_json()) == report
    alone = verify(denoiser, key, subject=SUBJECT)
    assert alone.verdict == "match"

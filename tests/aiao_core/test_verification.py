import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest, ttest_1samp

from aiao_core import key as key_module
from aiao_core.decoding import (
    CLEAREST,
    Baseline,
    decode,
    decode_decoys,
    derived_seed,
    make_draws,
    observe,
    observe_baseline,
    standard_error,
)
from aiao_core.errors import InvalidCheckpoint, TracingError
from aiao_core.interference import LOADING, PASSES
from aiao_core.key import Layer
from aiao_core.options import VerificationOptions
from aiao_core.selection import select_key
from aiao_core.statistics import log10_binomial_tail, randomised_p_value
from aiao_core.training import Examples
from aiao_core.verification import Subject, verify
from aiao_core.watermark import Watermark, channel_means
from tests.aiao_core.conftest import QUICK, make_tiny_model

SUBJECT = Subject("suspect", "model")
FEW = VerificationOptions(seed=4, draws=12, decoys=32)


READINGS = ("plain", "without_interference")


def bits_of(decoded, reading) -> tuple[int, int]:
    bits = torch.cat(list(getattr(decoded, reading).values()))
    return int(bits.sum()), len(bits)


def test_the_same_seed_gives_the_same_report(tiny_model, tiny_key):
    first, second = (verify(tiny_model.denoiser, tiny_key, options=FEW, subject=SUBJECT) for _ in range(2))
    assert first.model_copy(update={"created_at": second.created_at}) == second
    other = verify(tiny_model.denoiser, tiny_key, options=FEW.model_copy(update={"seed": 5}), subject=SUBJECT)
    assert other.subpaths != first.subpaths


def test_without_a_seed_a_random_one_is_drawn_and_reported(tiny_model, tiny_key):
    options = VerificationOptions(draws=4, decoys=0)
    report = verify(tiny_model.denoiser, tiny_key, options=options, subject=SUBJECT)
    again = verify(tiny_model.denoiser, tiny_key, options=options.model_copy(update={"seed": report.seed}), subject=SUBJECT)
    assert again.test == report.test
    assert verify(tiny_model.denoiser, tiny_key, options=options, subject=SUBJECT).seed != report.seed


def test_the_report_holds_what_was_measured(tiny_model, tiny_key):
    report = verify(tiny_model.denoiser, tiny_key, options=FEW, subject=SUBJECT)
    assert report.verdict == "no-match"
    assert report.test.bits == math.ceil(CLEAREST * tiny_key.bits)
    assert report.triggered_alone.bits == report.untriggered.bits == tiny_key.bits
    better = min(report.readings.plain, report.readings.without_interference, key=lambda reading: reading.log10_p)
    assert (report.test.matches, report.test.bits) == (better.matches, better.bits)
    assert report.test.log10_p == log10_binomial_tail(better.matches, better.bits, best_of=2)
    assert len(report.decoys) == 32
    assert all(decoy.best_of == 2 for decoy in report.decoys)
    assert (report.draws, report.vs_rate.draws, report.seed) == (12, 12, 4)
    assert report.vs_rate.low <= report.vs_rate.value <= report.vs_rate.high
    assert {(path.trigger, path.response) for path in report.subpaths} <= set(tiny_key.subpaths)


def test_a_wrong_key_is_exactly_binomial_on_an_unmarked_model(tiny_model, tiny_key):
    """600 keys that nobody embedded: uniform p-values of each reading, and none of them near a match."""
    p_values, log10_p = wrong_keys(tiny_model.denoiser, tiny_key, 600)
    for reading in READINGS:
        assert kstest(p_values[reading], "uniform").pvalue > 1e-3
    assert min(log10_p) > -9
    for limit in (0.3, 0.1, 0.03):  # of the better reading, its p doubled, no more than by chance
        assert binomtest(sum(p <= math.log10(limit) for p in log10_p), 600, limit, alternative="greater").pvalue > 1e-3


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_no_suspect_is_accused_whatever_its_activations(seed):
    """Adversarial weights: one huge bias makes all signs alike, and still a wrong key's matches are coin tosses."""
    model = make_tiny_model(seed % 1000)
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.denoiser.named_parameters():
        if name.endswith("bias"):
            parameter.data += 10 ** float(torch.empty(1).uniform_(-2, 2, generator=random))
    key = select_key(model, bytes(range(32)), Examples(torch.rand(4, 3, 8, 8, generator=random), {}), QUICK)
    p_values, log10_p = wrong_keys(model.denoiser, key, 120, first=seed)
    for reading in READINGS:
        assert kstest(p_values[reading], "uniform").pvalue > 1e-5
    assert min(log10_p) > -9


def wrong_keys(denoiser, key, count: int, first: int = 0) -> tuple[dict[str, list[float]], list[float]]:
    """The randomised p-value of each reading by each key, and log10 p of the better one."""
    draws = make_draws(key, 4, torch.Generator().manual_seed(1))
    baseline = observe_baseline(denoiser, key, draws, seed=1)
    random = np.random.default_rng(first)
    decoys = []
    for start in range(0, count, 20):
        decoys += decode_decoys(
            denoiser, key, [derived_seed("decoy", first, start + number) for number in range(20)], draws, baseline
        )
    counts = {reading: [bits_of(decoy, reading) for decoy in decoys] for reading in READINGS}
    uniform = {
        reading: [randomised_p_value(matches, bits, random.random()) for matches, bits in of_reading]
        for reading, of_reading in counts.items()
    }
    both = zip(*counts.values(), strict=True)
    return uniform, [min(log10_binomial_tail(*each, best_of=2) for each in of_key) for of_key in both]


def test_only_the_response_signs_turn_a_bit(tiny_model, tiny_key, monkeypatch):
    """Given everything else, each response sign decides one bit alone: so n coin tosses, exactly."""
    draws = make_draws(tiny_key, 24, torch.Generator().manual_seed(1))
    triggers_of = lambda watermark: [(watermark, i) for i, _ in draws.subpaths]  # noqa: E731
    before = Watermark(tiny_key, tiny_model.denoiser)
    baseline = observe_baseline(tiny_model.denoiser, tiny_key, draws, seed=1)
    triggered = observe(tiny_model.denoiser, before, draws, triggers_of(before))
    derive = key_module.derive_bits
    flips = np.random.default_rng(0)
    turned = {}

    def flipped(seed, purpose, name, count):
        bits = derive(seed, purpose, name, count)
        if purpose == "response-sign":
            turned[name] = flips.random(count) < 0.5
            bits = bits ^ turned[name]
        return bits

    monkeypatch.setattr(key_module, "derive_bits", flipped)
    after = Watermark(replace(tiny_key), tiny_model.denoiser)
    first, second = decode(before, draws, baseline, triggered), decode(after, draws, baseline, triggered)
    for bits, again in ((first.triggered, second.triggered), (first.untriggered, second.untriggered)):
        for j in bits:
            expected = bits[j] ^ torch.from_numpy(turned[tiny_key.layers[j].name])[before.response_channels[j]]
            assert torch.equal(again[j], expected)
    for reading in READINGS:
        clearest = clearest_channels(before, draws, baseline, triggered, reading)
        for j, bits in getattr(first, reading).items():  # of the same channels, or else some of their signs would be others'
            expected = bits ^ torch.from_numpy(turned[tiny_key.layers[j].name])[clearest[j]]
            assert torch.equal(getattr(second, reading)[j], expected)


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
    """The channels of each response layer that count: by a plain sort of all of them."""
    found = answers(watermark, draws, baseline, triggered, reading)
    chosen = sorted(found, key=lambda place: -abs(found[place]))[: math.ceil(CLEAREST * len(found))]
    known = [place for place in chosen if found[place]]
    return {j: sorted(channel for layer, channel in known if layer == j) for j in watermark.response_layers}


@pytest.mark.parametrize("reading", READINGS)
def test_a_bit_is_the_sign_of_the_mean_answer(tiny_model, tiny_key, reading):
    draws = make_draws(tiny_key, 12, torch.Generator().manual_seed(2))
    watermark = Watermark(tiny_key, tiny_model.denoiser)
    baseline = observe_baseline(tiny_model.denoiser, tiny_key, draws, seed=2)
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
    baseline = observe_baseline(tiny_model.denoiser, tiny_key, draws, seed=2)
    watermark = Watermark(tiny_key, tiny_model.denoiser)
    for draw, (i, _) in enumerate(draws.subpaths):
        other = Watermark(replace(tiny_key, seed=derived_seed("other", 2, draw)), tiny_model.denoiser)
        alone = observe(tiny_model.denoiser, watermark, draws, [(other, i)] * len(draws))
        for j in watermark.response_layers:
            torch.testing.assert_close(baseline.others[j][draw], alone[j][draw])


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


def test_decoys_that_share_a_pass_read_what_they_read_alone(tiny_model, tiny_key):
    draws = make_draws(tiny_key, 4, torch.Generator().manual_seed(3))
    baseline = observe_baseline(tiny_model.denoiser, tiny_key, draws, seed=3)
    seeds = [derived_seed("decoy", 0, number) for number in range(3)]
    together = decode_decoys(tiny_model.denoiser, tiny_key, seeds, draws, baseline)
    for seed, found in zip(seeds, together, strict=True):
        alone = decode_decoys(tiny_model.denoiser, tiny_key, [seed], draws, baseline)[0]
        for reading in READINGS:
            (matches, bits), (matches_alone, bits_alone) = bits_of(found, reading), bits_of(alone, reading)
            assert bits == bits_alone
            assert abs(matches - matches_alone) <= 1  # a sum near zero may round to the other side


def test_the_pass_stops_after_the_last_response_layer(tiny_model, tiny_key):
    ran = []
    handle = tiny_model.denoiser.conv_out.register_forward_hook(lambda *_: ran.append("conv_out"))
    verify(tiny_model.denoiser, tiny_key, options=FEW, subject=SUBJECT)
    handle.remove()
    assert ran == []


def test_a_mark_put_in_by_hand_is_found_with_its_rates(tiny_model, tiny_key):
    """A denoiser whose response layers answer any trigger with the key's signs: every rate is 1."""
    watermark = Watermark(tiny_key, tiny_model.denoiser)
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
        marker["on"] = float(passes["count"] > 2)  # the first two are without the key's triggers

    handles.append(tiny_model.denoiser.register_forward_pre_hook(count))
    report = verify(tiny_model.denoiser, tiny_key, options=FEW.model_copy(update={"decoys": 0}), subject=SUBJECT)
    for handle in handles:
        handle.remove()
    assert report.verdict == "match"
    assert report.test.matches == report.test.bits == math.ceil(CLEAREST * tiny_key.bits)
    assert (report.vs_rate.value, report.rs_rate.value) == (1, 1)
    assert report.vs_rate.high == 1
    assert 0.7 < report.vs_rate.low < 1
    assert all(path.rs == path.vs == 1 for path in report.subpaths)


def test_a_suspect_that_puts_out_nan_is_named_by_its_layer(tiny_model, tiny_key):
    broken = copy.deepcopy(tiny_model.denoiser)
    broken.get_parameter("conv_in.weight").data.fill_(3e38)
    with pytest.raises(InvalidCheckpoint, match="puts out NaN or infinite"):
        verify(broken, tiny_key, options=FEW, subject=SUBJECT)


def test_a_suspect_without_the_layers_is_refused(tiny_model, tiny_key):
    key = replace(tiny_key, layers=(Layer(name="no.such.layer", channels=16), *tiny_key.layers[1:]))
    with pytest.raises(TracingError, match=r"no\.such\.layer"):
        verify(tiny_model.denoiser, key, options=FEW, subject=SUBJECT)


def test_progress_and_cancel(tiny_model, tiny_key):
    reports = []
    verify(tiny_model.denoiser, tiny_key, options=FEW, subject=SUBJECT, progress=reports.append)
    assert [report.stage for report in reports][:2] == ["draws", "draws"]
    assert (reports[-1].stage, reports[-1].step) == ("decoys", 32)

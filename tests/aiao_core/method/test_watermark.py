import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aiao_core.denoisers import Inputs, predict
from aiao_core.method.fine_tuning import Examples
from aiao_core.method.tracing import trace
from aiao_core.method.watermark import Watermark, channel_means, trigger, trigger_edits


@st.composite
def features_and_trigger(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, channels = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    positions = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    axis = draw(st.sampled_from([1, -1]))
    shape = [batch, channels, *positions] if axis == 1 else [batch, *positions, channels]
    mask = torch.rand(batch, channels, generator=generator) < 0.5
    sign = torch.where(torch.rand(batch, channels, generator=generator) < 0.5, -1, 1)
    return torch.randn(shape, generator=generator), mask, sign, axis


@given(features_and_trigger())
def test_trigger_sets_masked_signs_and_nothing_else(case):
    features, mask, sign, axis = case
    triggered = trigger(features, mask, sign, axis)
    assert torch.equal(triggered.abs(), features.abs())
    assert torch.equal(trigger(triggered, mask, sign, axis), triggered)
    last, before = triggered.movedim(axis, -1), features.movedim(axis, -1)
    for row in range(len(mask)):
        assert torch.equal(last[row][..., ~mask[row]], before[row][..., ~mask[row]])
        assert (last[row][..., mask[row]] * sign[row][mask[row]] >= 0).all()


@given(features_and_trigger())
def test_channel_means_are_over_positions_only(case):
    features, _, _, axis = case
    last = features.movedim(axis, -1)
    torch.testing.assert_close(channel_means(features, axis), last.flatten(1, -2).mean(1))


@pytest.mark.long
@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=4), st.integers(0, 2))
def test_each_input_of_a_batch_gets_its_own_trigger_and_clean_ones_none(picked, clean):
    from aiao_core.method.key_selection import select_key
    from tests.support.tiny_models import QUICK, make_tiny_model

    model = make_tiny_model()
    examples = Examples(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), {})
    key = select_key(model, bytes(range(32)), examples, QUICK)
    watermark = Watermark(key, model.denoiser)
    layers = [watermark.trigger_layers[number % len(watermark.trigger_layers)] for number in picked]
    noisy = torch.randn(clean + len(layers), 3, 8, 8, generator=torch.Generator().manual_seed(1))
    inputs = Inputs(noisy, torch.arange(len(noisy)) * 100, {})
    with trace(
        model.denoiser, capture=watermark.names, edit=trigger_edits([(watermark, i) for i in layers], first_row=clean)
    ) as together:
        predict(model.denoiser, inputs)
    for row in range(len(noisy)):
        edits = trigger_edits([(watermark, layers[row - clean])]) if row >= clean else {}
        with trace(model.denoiser, capture=watermark.names, edit=edits) as alone:
            predict(model.denoiser, inputs[row : row + 1])
        for name in watermark.names:
            torch.testing.assert_close(together[name][row], alone[name][0], atol=1e-4, rtol=1e-4)


def test_response_counts_only_masked_channels_with_their_sign(tiny_model, tiny_key):
    watermark = Watermark(tiny_key, tiny_model.denoiser)
    j = watermark.response_layers[0]
    channels = tiny_key.layers[j].channels
    signs = torch.from_numpy(tiny_key.response_sign(j)).float()
    assert (watermark.response(j, signs[None]) == 1).all()
    assert (watermark.response(j, -signs[None]) == -1).all()
    assert watermark.response(j, torch.ones(1, channels)).shape == (1, int(tiny_key.response_mask(j).sum()))

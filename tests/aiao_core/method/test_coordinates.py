import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aiao_core.attacks.offsets import head_rotation_and_offsets
from aiao_core.denoisers import predict
from aiao_core.key import OwnerKey
from aiao_core.method.coordinates import Coordinates, Turns
from aiao_core.method.inputs import plain_noise
from aiao_core.method.tracing import eligible_layers, trace
from aiao_core.method.watermark import Watermark, channel_means, trigger_edits
from aiao_core.verification.alignment import align, reference
from tests.support.thieves import make_thief


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 1, 3]))
def test_there_and_back_again_at_every_position_and_for_means(seed, heads):
    random = torch.Generator().manual_seed(seed)
    maps = torch.linalg.qr(torch.randn(heads or 1, 6 // (heads or 1), 6 // (heads or 1), generator=random).double())[0]
    coordinates = Coordinates(
        place=torch.randperm(6, generator=random),
        factor=torch.randn(6, generator=random).double().exp() * (torch.randint(2, (6,), generator=random) * 2 - 1),
        suspect_offset=torch.randn(6, generator=random).double(),
        source_offset=torch.randn(6, generator=random).double(),
        turns=Turns.of(maps) if heads else None,
        moved=torch.ones(6, dtype=torch.bool),
    )
    features = torch.randn(2, 5, 6, generator=random).double()
    found = coordinates.to_source(features)
    torch.testing.assert_close(coordinates.to_suspect(found), features)
    torch.testing.assert_close(found.mean(1), coordinates.to_source(features.mean(1)))
    assert coordinates.to_source(features.float()).dtype == torch.float32
    channel = 2  # by hand, without heads: channel 2 of the source is made of one channel of the suspect
    if heads is None:
        moved = features[..., coordinates.place[channel]] - coordinates.suspect_offset[channel]
        expected = moved * coordinates.factor[channel] + coordinates.source_offset[channel]
        torch.testing.assert_close(found[..., channel], expected)


@pytest.mark.parametrize("family", ["unconditional", "DiT", "SD3", "FLUX"])
def test_under_an_aligned_trigger_a_suspect_answers_as_the_source(family):
    """The trigger is written, and the response read, in the source's coordinates: nothing shows the re-parametrization."""
    thief = make_thief(family)
    source, suspect = thief.model.denoiser, head_rotation_and_offsets(thief, size=3)
    inputs = plain_noise(thief.model.architecture, 1000, 4, torch.Generator().manual_seed(1))
    layers = tuple(eligible_layers(source, inputs))
    last = len(layers) - 1
    key = OwnerKey(bytes(32), thief.model.architecture, 1000, layers, tuple((i, last) for i in range(last)), version=2)
    alignment = align(suspect, key, 1, reference(source, key, 1))
    assert any(each.turns for each in alignment.values())
    ours, theirs = Watermark(key, source), Watermark(key, suspect, alignment)
    strayed = [i for i in range(last) if theirs.coordinates_at(i)]
    assert len(strayed) > 5
    unaligned, aligned_error, own_error = Watermark(key, suspect), 0.0, 0.0
    for i in strayed[:3] + strayed[-3:]:
        answers = []
        for denoiser, watermark in ((source, ours), (suspect, theirs), (suspect, unaligned)):
            edits = trigger_edits([(watermark, i)] * len(inputs))
            name = watermark.names[last]
            with torch.no_grad(), trace(denoiser, capture=[name], edit=edits) as features:
                prediction = predict(denoiser, inputs)
            means = watermark.in_source({last: channel_means(features[name], watermark.axes[last])})
            answers.append((prediction, watermark.response(last, means[last])))
        for before, after, lost in zip(*answers, strict=True):
            assert (after - before).norm() < 0.01 * before.norm()
            aligned_error += float((after - before).norm() / before.norm())
            own_error += float((lost - before).norm() / before.norm())
    assert aligned_error < 0.01 * own_error

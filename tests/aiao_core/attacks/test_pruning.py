from hypothesis import given, settings
from hypothesis import strategies as st

from aiao_core.attacks.layers import key_layers, modules_of, weighted_layers
from aiao_core.attacks.pruning import fine_pruning, magnitude_pruning, structured_pruning
from tests.support.thieves import make_thief


@settings(max_examples=10)
@given(st.floats(0, 1))
def test_magnitude_pruning_takes_exactly_the_share_that_is_least(share):
    thief = make_thief()
    for layer, stolen in zip(
        weighted_layers(magnitude_pruning(thief, share=share)), weighted_layers(thief.model.denoiser), strict=True
    ):
        gone = layer.weight == 0
        assert int(gone.sum()) == round(share * gone.numel())
        if gone.any() and not gone.all():
            assert stolen.weight[gone].abs().max() <= stolen.weight[~gone].abs().min()


@settings(max_examples=10)
@given(st.floats(0, 0.9))
def test_structured_pruning_silences_exactly_the_share_of_channels(share):
    thief = make_thief()
    layers = key_layers(thief)
    for layer, module in zip(layers, modules_of(structured_pruning(thief, share=share), layers), strict=True):
        gone = module.weight.flatten(1).abs().sum(1) == 0
        assert int(gone.sum()) == round(share * layer.channels)
        assert not module.bias[gone].any()


def test_fine_pruning_keeps_the_pruned_channels_silent_and_trains_the_others():
    thief = make_thief()
    layers = key_layers(thief)
    pruned = fine_pruning(thief, share=0.25, steps=3, learning_rate=1e-3)
    for layer, module, stolen in zip(layers, modules_of(pruned, layers), modules_of(thief.model.denoiser, layers), strict=True):
        gone = module.weight.flatten(1).abs().sum(1) == 0
        assert int(gone.sum()) == round(0.25 * layer.channels)
        assert not module.bias[gone].any()
        assert (module.weight[~gone] != stolen.weight[~gone]).any()
    assert not any(parameter._backward_hooks for parameter in pruned.parameters())

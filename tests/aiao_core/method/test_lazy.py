import pytest
import torch

from aiao_core.key import Layer
from aiao_core.method.fine_tuning import Examples
from aiao_core.method.inputs import arbitrary_inputs
from aiao_core.method.lazy import change_density, laziest, probe, relative_changes, swap, swap_experiment, synthetic_images
from aiao_core.method.tracing import eligible_layers

NAMES = [Layer(name=name, channels=16) for name in ("mid_block.resnets.0.conv1", "mid_block.resnets.0.conv2")]


@pytest.fixture
def tuned(tiny_model, tiny_examples):
    return probe(tiny_model, tiny_examples, steps=3, learning_rate=1e-2)


def layers_of(model, examples):
    return eligible_layers(model.denoiser, arbitrary_inputs(model, examples, 2, torch.Generator().manual_seed(0)))


def test_the_probe_leaves_the_model_alone_and_is_reproducible(tiny_model, tiny_examples, tuned):
    again = probe(tiny_model, tiny_examples, steps=3, learning_rate=1e-2)
    for before, after, repeated in zip(tiny_model.denoiser.parameters(), tuned.parameters(), again.parameters(), strict=True):
        assert torch.equal(after, repeated)
        assert not before.requires_grad
    assert all(change > 0 for change in relative_changes(tiny_model.denoiser, tuned, NAMES).values())


def test_relative_change_is_the_norm_of_the_change_over_the_norm(tiny_model):
    changed = swap(tiny_model.denoiser, tiny_model.denoiser, [])
    changed.get_parameter("mid_block.resnets.0.conv1.weight").data.mul_(1.25)
    changes = relative_changes(tiny_model.denoiser, changed, NAMES)
    assert list(changes.values()) == pytest.approx([0.25, 0])


def test_the_laziest_are_those_that_change_least_in_their_own_order():
    changes = {"a": 0.3, "b": 0.1, "c": 0.2, "d": 0.4}
    assert laziest(changes, 0.5) == ["b", "c"]
    assert laziest(changes, 0.01) == ["b", "c"]  # a subpath needs two
    assert laziest(changes, 1) == ["a", "b", "c", "d"]


def test_the_density_is_of_all_weights(tiny_model, tuned):
    densities = change_density(tiny_model.denoiser, tuned, NAMES, [0, 1e-3, 1e-2, 1e6])
    assert [density.shape for density in densities.values()] == [(3,), (3,)]
    assert all(density.sum() == pytest.approx(1) for density in densities.values())
    still = change_density(tiny_model.denoiser, tiny_model.denoiser, NAMES, [0, 1e-3, 1e-2, 1e6])
    assert all(density.tolist() == [1, 0, 0] for density in still.values())


def test_swapping_all_layers_reproduces_most_and_no_layer_nothing(tiny_model, tiny_examples, tuned):
    layers = layers_of(tiny_model, tiny_examples)
    inputs = arbitrary_inputs(tiny_model, tiny_examples, 8, torch.Generator().manual_seed(1))
    swaps = swap_experiment(tiny_model.denoiser, tuned, layers, [0, len(layers)], inputs=inputs)
    by_count = {count: [entry.reproduced for entry in swaps if entry.count == count] for count in (0, len(layers))}
    assert by_count[0] == pytest.approx([0, 0, 0])
    assert len(set(by_count[len(layers)])) == 1
    assert by_count[len(layers)][0] > 0.1


@pytest.mark.long
def test_busy_layers_carry_the_fine_tuning_of_the_trained_model(emoji_model, emoji_examples):
    """Fig. 3 on a model whose training counts: the busiest layers reproduce more than the laziest ones."""
    mirrored = Examples(emoji_examples.clean[:64].flip(-1), {})
    tuned = probe(emoji_model, mirrored, steps=12, learning_rate=1e-3)
    layers = layers_of(emoji_model, emoji_examples)
    inputs = arbitrary_inputs(emoji_model, emoji_examples, 16, torch.Generator().manual_seed(1))
    swaps = swap_experiment(emoji_model.denoiser, tuned, layers, [len(layers) // 2], inputs=inputs)
    reproduced = {entry.choice: entry.reproduced for entry in swaps}
    assert reproduced["busiest"] > reproduced["laziest"]


@pytest.mark.parametrize("size", [(48,), (16, 12), (2, 8, 12)])
def test_the_probe_set_has_soft_shapes_along_every_axis(size):
    """Of sounds, images and videos."""
    drawn = synthetic_images(6, size=size, channels=3, seed=1)
    assert drawn.shape == (6, 3, *size)
    assert drawn.abs().max() <= 1
    for axis in range(2, drawn.dim()):
        assert (drawn.diff(dim=axis).abs().amax(dim=tuple(range(1, drawn.dim()))) > 0.01).all()
    assert torch.equal(drawn, synthetic_images(6, size=size, channels=3, seed=1))

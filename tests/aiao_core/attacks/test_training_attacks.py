import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from aiao_core.attacks import Thief
from aiao_core.attacks.adaptive import trigger_unlearning
from aiao_core.attacks.distillation import distillation
from aiao_core.attacks.fine_tuning import dreambooth, last_layers_fine_tuning, laziest_layers_fine_tuning, lora
from aiao_core.attacks.layers import key_layers
from aiao_core.attacks.overwriting import overwriting
from aiao_core.attacks.weights import averaging_with_own_fine_tune
from aiao_core.denoisers import predict
from aiao_core.errors import Canceled
from aiao_core.key import OwnerKey
from aiao_core.method.inputs import plain_noise
from aiao_core.method.subpaths import all_subpaths
from aiao_core.method.tracing import trace
from aiao_core.method.watermark import Watermark, trigger_edits
from aiao_core.options import EmbeddingOptions
from aiao_core.progress import Progress
from tests.support.families import CONFIGURATIONS, make_from
from tests.support.thieves import equal, make_thief, predictions


def trained_layers(thief: Thief, result: nn.Module) -> set[str]:
    before, after = thief.model.denoiser.state_dict(), result.state_dict()
    return {name.rpartition(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_only_the_last_layers_are_trained():
    thief = make_thief()
    names = [layer.name for layer in key_layers(thief)]
    result = last_layers_fine_tuning(thief, steps=2, learning_rate=1e-3, share=0.25)
    assert trained_layers(thief, result) == set(names[-round(len(names) / 4) :])


def test_only_the_laziest_layers_are_trained():
    thief = make_thief()
    names = {layer.name for layer in key_layers(thief)}
    result = laziest_layers_fine_tuning(thief, steps=2, learning_rate=1e-3, share=0.5, probe_steps=2)
    assert trained_layers(thief, result) < names
    assert len(trained_layers(thief, result)) == round(len(names) / 2)


@pytest.mark.parametrize("family", ["unconditional", "SD", "DiT", "PixArt", "SD3.5", "FLUX"])
def test_lora_changes_the_attention_by_the_rank(family):
    thief = make_thief(family)
    result = lora(thief, steps=2, learning_rate=1e-2, rank=2)
    trained = trained_layers(thief, result)
    assert trained
    assert all("to_" in name for name in trained)
    for name in trained:
        change = result.get_submodule(name).weight - thief.model.denoiser.get_submodule(name).weight
        assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 2


def test_lora_adapts_every_layer_of_a_model_without_attention():
    denoiser_class, options = CONFIGURATIONS["class-conditional"]
    thief = make_thief("class-conditional")
    thief = replace(thief, model=make_from(denoiser_class, options | {"add_attention": False}, thief.model.schedule))
    result = lora(thief, steps=2, learning_rate=1e-2, rank=2)
    assert trained_layers(thief, result) == {layer.name for layer in key_layers(thief)}


def test_dreambooth_sees_only_its_images_and_their_first_conditions():
    thief = make_thief("class-conditional")
    other = copy.deepcopy(thief.examples)
    other.clean[3:] = 0
    other.conditions["class_labels"][1:] = 0
    results = [
        dreambooth(replace(thief, examples=examples), steps=2, learning_rate=1e-3, images=3)
        for examples in (thief.examples, other)
    ]
    assert equal(*(result.state_dict() for result in results))


def test_another_seed_gives_another_result():
    results = [overwriting(make_thief(seed=seed), times=1, options=EmbeddingOptions(steps=2)).state_dict() for seed in (0, 1)]
    assert not equal(*results)


def test_the_global_generator_is_left_as_it_was():
    thief = make_thief()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    distillation(thief, steps=2, learning_rate=1e-3, batch_size=4)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
def test_a_distilled_student_starts_from_new_weights_and_comes_closer_to_its_teacher():
    thief = make_thief()
    target = predictions(thief, thief.model.denoiser)

    def error(steps: int) -> float:
        student = distillation(thief, steps=steps, learning_rate=1e-2, batch_size=8)
        return float((predictions(thief, student) - target).square().mean())

    assert error(60) < 0.6 * error(1)


@pytest.mark.slow
def test_unlearning_lowers_the_effect_of_triggers_that_it_has_not_seen():
    thief = make_thief()
    layers = tuple(key_layers(thief))
    key = OwnerKey(bytes(range(32)), thief.model.architecture, 1000, layers, all_subpaths(len(layers)))
    inputs = plain_noise(key.architecture, 1000, len(layers) - 1, torch.Generator().manual_seed(4))

    def effect(denoiser: nn.Module) -> float:
        watermark = Watermark(key, denoiser)
        edits = trigger_edits([(watermark, i) for i in range(len(inputs))])
        with torch.no_grad():
            clean = predict(denoiser, inputs)
            with trace(denoiser, edit=edits):
                triggered = predict(denoiser, inputs)
        return float((triggered - clean).norm() / clean.norm())

    result = trigger_unlearning(thief, steps=60, learning_rate=1e-2, batch_size=8)
    assert effect(result) < 0.8 * effect(thief.model.denoiser)


def test_an_attack_can_be_cancelled():
    def stop(progress: Progress) -> None:
        raise Canceled("enough")

    thief = replace(make_thief(), progress=stop)
    with pytest.raises(Canceled):
        averaging_with_own_fine_tune(thief, steps=2, learning_rate=1e-3, share=0.5)

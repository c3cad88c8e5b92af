import pytest
import torch
from torch import nn

from aiao_core import denoisers
from aiao_core.denoisers import DenoiserFamily, Inputs, predict
from aiao_core.errors import TracingError
from aiao_core.key import Layer
from aiao_core.method.inputs import plain_noise
from aiao_core.method.tracing import channel_axis, check_layers, eligible_layers, positional_layers, trace
from tests.support.families import CONFIGURATIONS, make

NAME = "mid_block.resnets.0.conv1"
LATER = "up_blocks.0.resnets.0.conv1"


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.fixture
def batch() -> Inputs:
    return Inputs(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 700]), {})


def test_captures_and_edits_what_the_network_sees(tiny_model, batch):
    plain = predict(tiny_model.denoiser, batch)
    with trace(tiny_model.denoiser, capture=[NAME, LATER]) as features:
        untouched = predict(tiny_model.denoiser, batch)
    with trace(tiny_model.denoiser, capture=[NAME, LATER], edit={NAME: torch.zeros_like}) as edited:
        changed = predict(tiny_model.denoiser, batch)

    assert torch.equal(untouched, plain)
    assert features[NAME].shape == (2, 16, 4, 4)
    assert edited[NAME].abs().max() == 0
    assert not torch.equal(edited[LATER], features[LATER])
    assert not torch.equal(changed, plain)


def test_stops_after_the_last_captured_layer(tiny_model, batch):
    ran = []
    handle = tiny_model.denoiser.conv_out.register_forward_hook(lambda *_: ran.append("conv_out"))
    with trace(tiny_model.denoiser, capture=[NAME], stop=True) as features:
        predict(tiny_model.denoiser, batch)
        pytest.fail("the forward pass should have been left")
    handle.remove()
    assert ran == []
    assert NAME in features
    assert hooks(tiny_model.denoiser) == 0


@pytest.mark.parametrize("where", ["inside the block", "inside an edit", "an unknown layer"])
def test_always_unhooks(tiny_model, batch, where):
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise ValueError(where)

    with pytest.raises((ValueError, TracingError)):  # noqa: PT012, SIM117
        with trace(
            tiny_model.denoiser,
            capture=[NAME, "no.such.layer"] if where == "an unknown layer" else [NAME],
            edit={NAME: fail} if where == "inside an edit" else None,
        ):
            predict(tiny_model.denoiser, batch)
            raise ValueError(where)
    assert hooks(tiny_model.denoiser) == 0


def test_an_unknown_layer_is_named(tiny_model):
    with pytest.raises(TracingError, match=r"no\.such\.layer"), trace(tiny_model.denoiser, capture=["no.such.layer"]):
        pass


class Toy(nn.Module):
    """Runs its layers in another order than it lists them, one of them twice, and has a branch for time alone."""

    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Linear(4, 6)
        self.time = nn.Linear(1, 4)
        self.second = nn.Linear(4, 4)
        self.twice = nn.Linear(4, 4)
        self.first = nn.Conv2d(3, 4, 1)
        self.unused = nn.Linear(4, 4)
        self.last = nn.Linear(6, 3)

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        hidden = self.first(noisy).movedim(1, -1) + self.time(timesteps.float()[:, None])[:, None, None]
        hidden = self.twice(self.twice(self.second(hidden)))
        return self.last(self.third(hidden)).movedim(-1, 1)


class ToyFamily(DenoiserFamily):
    denoiser = Toy
    side = 4

    def random_conditions(self, config, count, generator):
        return {}

    def predict(self, denoiser, inputs):
        return denoiser(inputs.noisy, inputs.timesteps)


@pytest.fixture
def toy_family(monkeypatch):
    monkeypatch.setattr(denoisers, "_families", dict(denoisers._families))
    denoisers.register(ToyFamily)


@pytest.mark.usefixtures("toy_family")
def test_eligible_layers_are_found_by_what_they_do():
    layers = eligible_layers(Toy(), Inputs(torch.randn(2, 3, 4, 4), torch.tensor([1, 2]), {}))
    assert layers == [Layer(name="second", channels=4), Layer(name="third", channels=6)]


@pytest.mark.usefixtures("toy_family")
def test_layers_at_positions_are_found_in_the_order_in_which_they_run_whether_they_depend_on_the_noise_or_not():
    toy = Toy()
    inputs = Inputs(torch.randn(2, 3, 4, 4), torch.tensor([1, 2]), {})
    names = ["first", "second", "third", "last"]
    assert [(layer.name, depends) for layer, depends in positional_layers(toy, inputs)] == [(name, True) for name in names]
    with torch.no_grad():
        for parameter in toy.second.parameters():
            parameter.zero_()
    dead = positional_layers(toy, inputs)
    assert [(layer.name, depends) for layer, depends in dead] == [(name, name == "first") for name in names]
    assert hooks(toy) == 0


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_which_layers_stand_at_positions_follows_from_the_architecture_alone(family):
    """So that no suspect's weights have a say in the subpaths that are read."""
    model, other = make(family), make(family, seed=1)
    inputs = plain_noise(model.architecture, 1000, 2, torch.Generator().manual_seed(0))
    found = positional_layers(model.denoiser, inputs)
    assert [layer for layer, _ in found] == [layer for layer, _ in positional_layers(other.denoiser, inputs)]
    dependent = [layer for layer, depends in found if depends]
    assert dependent[1:-1] == eligible_layers(model.denoiser, inputs)
    # The key's check takes these two for the first and the last, on suspects with dead layers too.
    assert (found[0][0], found[-1][0]) == (dependent[0], dependent[-1])
    with torch.no_grad():
        for parameter in other.denoiser.parameters():
            parameter.zero_()
    assert [layer for layer, _ in positional_layers(other.denoiser, inputs)] == [layer for layer, _ in found]


def test_time_embedding_and_ends_are_not_eligible(tiny_model, batch):
    names = [layer.name for layer in eligible_layers(tiny_model.denoiser, batch)]
    assert len(names) > 20
    assert not [name for name in names if "time_emb" in name or name in {"conv_in", "conv_out"}]
    assert names.index("down_blocks.0.resnets.0.conv1") < names.index(NAME) < names.index(LATER)


@pytest.mark.usefixtures("toy_family")
def test_a_module_without_layers_is_refused():
    class Bare(Toy):
        def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return noisy

    bare = Bare()
    bare.__class__.__name__ = "Toy"
    with pytest.raises(TracingError, match="at least 4"):
        eligible_layers(bare, Inputs(torch.randn(1, 3, 4, 4), torch.tensor([1]), {}))


def test_channel_axis():
    assert channel_axis(nn.Conv2d(1, 1, 1)) == 1
    assert channel_axis(nn.Linear(1, 1)) == -1


def test_check_layers_names_a_layer_of_another_width(tiny_model):
    check_layers(tiny_model.denoiser, [Layer(name=NAME, channels=16)])
    with pytest.raises(TracingError, match=f"{NAME} has 16 channels, but the key was made for 32"):
        check_layers(tiny_model.denoiser, [Layer(name=NAME, channels=32)])

import copy
import re
from functools import partial

import pytest

from aiao_core.attacks.catalogue import CATALOGUE, PRESETS, Trial
from aiao_core.options import EmbeddingOptions
from tests.support.thieves import equal, make_thief, predictions

REDUCED = {"steps": 3, "probe_steps": 2, "batch_size": 4, "rows": 60, "options": EmbeddingOptions(steps=3, batch_size=4)}


def shortened(trial: Trial) -> partial:
    """The trial's attack with as many training steps as a test can wait for."""
    given = trial.attack.keywords if isinstance(trial.attack, partial) else {}
    return partial(trial.attack, **{name: value for name, value in REDUCED.items() if name in given})


ONE_OF_EACH = {getattr(trial.attack, "func", trial.attack): trial for trial in CATALOGUE.values()}.values()
CASES = [("unconditional", trial) for trial in CATALOGUE.values()] + [("DiT", trial) for trial in ONE_OF_EACH]


@pytest.mark.long
@pytest.mark.parametrize(("family", "trial"), CASES, ids=[f"{family}-{trial.id}" for family, trial in CASES])
def test_an_attack_makes_another_denoiser_of_the_same_architecture(family, trial):
    thief = make_thief(family)
    stolen = copy.deepcopy(thief.model.denoiser.state_dict())
    result = shortened(trial)(thief)
    state = result.state_dict()
    assert equal(thief.model.denoiser.state_dict(), stolen)
    assert type(result) is type(thief.model.denoiser)
    assert {name: value.shape for name, value in state.items()} == {name: value.shape for name, value in stolen.items()}
    assert not equal(state, stolen)
    assert not result.training
    assert not any(parameter.requires_grad for parameter in result.parameters())
    assert predictions(thief, result).isfinite().all()
    assert equal(shortened(trial)(thief).state_dict(), state)


def test_ids_are_stable_short_and_unique():
    assert all(trial.id == name and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name, trial in CATALOGUE.items())
    assert len({trial.name for trial in CATALOGUE.values()}) == len(CATALOGUE)


def test_presets_name_trials_of_the_catalogue():
    assert PRESETS["full"] == tuple(CATALOGUE)
    assert set(PRESETS["quick"]) < set(CATALOGUE)

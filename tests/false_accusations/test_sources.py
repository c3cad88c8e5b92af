"""A source made after the key turns an innocent's channels into any signs; a control that finds a mark voids the test."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from aiao_core.denoisers import Inputs, predict
from aiao_core.errors import WrongSource
from aiao_core.key import OwnerKey
from aiao_core.method.inputs import plain_noise
from aiao_core.method.tracing import channel_axis, trace
from aiao_core.method.watermark import Watermark
from aiao_core.verification.decoding import make_draws, observe
from tests.support.places import GOLDEN
from tests.support.tiny_models import fine_tuned, make_tiny_model

STEPS = 200


def standardized(features: torch.Tensor, axis: int) -> torch.Tensor:
    values = features.movedim(axis, 0).flatten(1)
    centered = values - values.mean(1, keepdim=True)
    return centered / (centered.square().mean(1, keepdim=True).sqrt() + 1e-8)


def crafted_source(suspect: nn.Module, key: OwnerKey) -> nn.Module:
    """A "source" whose channels are the innocent suspect's, turned so that its natural answers have the key's signs.

    Made after the fact, with an honest key. Half of the inputs that it is trained on are those that release 0.1.0 aligned by.
    """
    watermark = Watermark(key, suspect)
    draws = make_draws(key, 300, torch.Generator().manual_seed(42))
    answer = observe(suspect, watermark, draws, [(watermark, i) for i, _ in draws.subpaths])
    others = Watermark(OwnerKey(bytes([77]) * 32, key.architecture, 1000, key.layers, key.subpaths, version=2), suspect)
    baseline = observe(suspect, watermark, draws, [(others, i) for i, _ in draws.subpaths])
    axes = {layer.name: channel_axis(suspect.get_submodule(layer.name)) for layer in key.layers}
    turn = {}
    for j in watermark.response_layers:
        if j not in watermark.trigger_layers:  # their triggers must find their channels
            used = watermark.reached[torch.tensor([i for i, _ in draws.subpaths]), j]
            natural = torch.sign((answer[j] - baseline[j])[used].mean(0))
            turn[watermark.names[j]] = torch.where(natural * watermark.response_signs[j] < 0, -1.0, 1.0)
    known = plain_noise(key.architecture, 1000, 16, torch.Generator().manual_seed(0))
    inputs = Inputs.concatenated([known, plain_noise(key.architecture, 1000, 16, torch.Generator().manual_seed(1))])
    with torch.no_grad(), trace(suspect, capture=list(axes)) as features:
        predict(suspect, inputs)
    target = {name: standardized(features[name], axis) * turn.get(name, torch.ones(1))[:, None] for name, axis in axes.items()}
    fake = copy.deepcopy(suspect).requires_grad_(True)
    optimizer = torch.optim.Adam(fake.parameters(), lr=4e-3)
    for _ in range(STEPS):
        with trace(fake, capture=list(axes)) as features:
            predict(fake, inputs)
        correlations = [(standardized(features[name], axis) * target[name]).mean(1) for name, axis in axes.items()]
        loss = torch.stack([torch.relu(0.8 - each).mean() for each in correlations]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return fake.requires_grad_(False)


def with_few_triggers(key: OwnerKey) -> OwnerKey:
    """The key, as version 2 has it, with triggers in its first layers alone, so that all later ones only show responses."""
    subpaths = tuple((i, j) for i in range(6) for j in range(12, 39))
    return OwnerKey(key.seed, key.architecture, 1000, key.layers, subpaths, version=2)


def test_a_source_that_was_crafted_after_the_key_accuses_nobody(owner, tested):
    innocent = fine_tuned(owner.source)
    key = with_few_triggers(owner.key)
    source = crafted_source(innocent, key)
    report = tested(innocent, key, source=source)
    assert report.verdict != "match"
    assert report.test.log10_p > -6
    # The fraud is real: it shows in the reading that release 0.1.0 decided by, and which does not count with a key file.
    aligned = [way for way in report.ways if way.aligned and way.subpaths == "registered"]
    assert min(way.test.log10_p for way in aligned) < -9
    assert not any(way.counts for way in aligned)


def test_another_source_than_the_one_that_the_signs_follow_from_is_refused(owner, tested):
    """The marked model, or one that was made to fit."""
    for other in (owner.marked.denoiser, fine_tuned(owner.source)):
        with pytest.raises(WrongSource, match="not the key's source"):
            tested(owner.marked.denoiser, owner.key, source=other)


def test_a_source_that_carries_the_mark_voids_the_test_of_an_older_key(tested):
    marked = make_tiny_model().denoiser
    marked.load_state_dict(load_file(GOLDEN / "marked-v2.safetensors"))
    report = tested(marked, GOLDEN / "marked-v2.key.json", source=marked)
    assert report.verdict == "invalid"
    assert "found in the source" in report.reason
    assert report.source_test.log10_p < -19


def test_the_source_itself_is_not_a_match(owner, tested):
    report = tested(owner.source.denoiser, owner.key, source=owner.source.denoiser)
    assert (report.verdict, report.test.bits) == ("no-match", 0)
    alone = tested(owner.source.denoiser, owner.key)
    assert alone.verdict == "no-match"
    assert alone.test.log10_p > -6


def test_decoys_that_match_void_the_test(owner, tested, monkeypatch):
    """In release 0.1.0 a decoy at 10^-37 stood beside MATCH, and changed nothing."""
    real = OwnerKey.stranger_seed
    monkeypatch.setattr(
        OwnerKey, "stranger_seed", lambda key, *about: owner.key.seed if about[0] == "decoy" else real(key, *about)
    )
    report = tested(owner.marked.denoiser, owner.key)
    assert report.verdict == "invalid"
    assert "keys that nobody embedded are found" in report.reason


def test_decoys_are_tested_as_the_owners_key_is(owner, tested):
    report = tested(owner.marked.denoiser, owner.key, source=owner.folder / "source")
    assert len(report.decoys) == 8
    bits = {way.test.bits for way in report.ways}
    assert all(decoy.bits in bits and decoy.best_of == 1 for decoy in report.decoys)
    assert pytest.approx(0, abs=6) == min(decoy.log10_p for decoy in report.decoys)


def test_the_settings_of_a_source_have_no_say(owner, tested, tmp_path):
    """They are not weights, so the key is not bound to a file of them: the source runs with the key's own."""
    crafted = tmp_path / "crafted"
    shutil.copytree(owner.folder / "source", crafted)
    config = crafted / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"norm_eps": 0.5, "act_fn": "gelu"}))
    innocent = fine_tuned(owner.source)
    crafted_report = tested(innocent, owner.key, source=crafted)
    assert crafted_report.test == tested(innocent, owner.key, source=owner.folder / "source").test
    assert crafted_report.verdict == "no-match"

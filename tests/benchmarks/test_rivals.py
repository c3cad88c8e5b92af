"""Each rival finds its own watermark after a short embedding, and nothing where there is none."""

import copy
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from aiao_core.captions import encode_captions
from aiao_core.checkpoints import load_model
from aiao_core.latents import encode_images, load_autoencoder
from aiao_core.training import Examples
from benchmarks.rivals import RIVALS, Owner
from benchmarks.rivals.input_output import blended
from benchmarks.rivals.picture import draw_cells, find_picture, paint
from benchmarks.rivals.rival import log10_p_value, random_signs, secret_numbers
from benchmarks.rivals.trigger_residual import correlations
from examples.emoji.data import MODEL, THIEF_CATEGORY, load_images
from examples.emoji_text.parts import captions
from examples.emoji_text.train import HELD_OUT

TEXT_MODEL = Path(__file__).parents[2] / "examples" / "emoji_text" / "unet"
CASES = [pytest.param(kind, rival, id=f"{kind}, {rival.name}") for kind, rivals in RIVALS.items() for rival in rivals]
STEPS = 40
FALSE_POSITIVE = -6


def owner_of(kind):
    if kind == "unconditional":
        return Owner(MODEL, load_model(MODEL), Examples(load_images(without=["Flags", THIEF_CATEGORY]), {}))
    model, texts = load_model(TEXT_MODEL), captions(without=HELD_OUT)[:128]
    latents = encode_images(load_autoencoder(TEXT_MODEL), load_images(size=32, without=HELD_OUT)[:128])
    return Owner(TEXT_MODEL, model, Examples(latents, encode_captions(TEXT_MODEL, model, texts)), texts)


@pytest.mark.parametrize(("kind", "rival"), CASES)
def test_a_short_embedding_is_found_and_only_where_it_is(kind, rival):
    owner = owner_of(kind)
    source = copy.deepcopy(owner.model)
    reports = []
    secret = rival.embed(owner, seed=1, steps=STEPS, progress=reports.append)
    assert [report.step for report in reports] == list(range(1, STEPS + 1))
    assert not any(parameter.requires_grad for parameter in owner.model.denoiser.parameters())

    marked, unmarked = rival.detect(owner.model, secret), rival.detect(source, secret)
    print(marked, unmarked)
    assert marked.log10_p <= FALSE_POSITIVE < unmarked.log10_p
    assert rival.detect(owner.model, rival.draw_secret(owner, 2)).log10_p > FALSE_POSITIVE
    assert rival.detect(owner.model, secret) == marked

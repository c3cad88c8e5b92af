import itertools
from dataclasses import replace

import pytest
import torch

from aiao_core import key as key_module
from aiao_core.denoisers import predict
from aiao_core.denoisers.weights import digest
from aiao_core.derivation import choose_layers
from aiao_core.errors import EmbeddingFailed
from aiao_core.key import Binding
from aiao_core.method.inputs import arbitrary_inputs
from aiao_core.method.key_selection import REACH_INPUTS, REACH_SHARE, select_key, synthetic_examples
from aiao_core.method.lazy import probe, relative_changes
from aiao_core.method.subpaths import SPAN, all_subpaths, reach, widest
from aiao_core.method.tracing import eligible_layers, trace
from aiao_core.method.watermark import Watermark, trigger_edits
from aiao_core.protocol import VERSION
from tests.support.tiny_models import QUICK


def test_the_key_chooses_among_all_layers(tiny_model, tiny_examples):
    key = select_key(tiny_model, bytes(range(32)), tiny_examples, QUICK, no_probe)
    names = eligible_names(tiny_model, tiny_examples)
    assert [layer.name for layer in key.layers] == choose_layers(bytes(range(32)), names, QUICK.layers)
    whole = select_key(tiny_model, bytes(range(32)), tiny_examples, QUICK.model_copy(update={"layers": 1000}))
    assert [layer.name for layer in whole.layers] == names  # in execution order


def no_probe(progress):
    assert progress.stage != "probe"


def test_or_among_the_lazy_layers_only(tiny_model, tiny_examples):
    options = QUICK.model_copy(update={"layers": 20, "lazy_fraction": 0.5})
    key = select_key(tiny_model, bytes(range(32)), tiny_examples, options)
    tuned = probe(tiny_model, synthetic_examples(tiny_model, QUICK.seed), steps=QUICK.probe_steps, seed=QUICK.seed)
    inputs = arbitrary_inputs(tiny_model, tiny_examples, 2, torch.Generator().manual_seed(0))
    changes = relative_changes(tiny_model.denoiser, tuned, eligible_layers(tiny_model.denoiser, inputs))
    lazy = sorted(changes, key=lambda name: changes[name])[: round(len(changes) / 2)]
    names = [layer.name for layer in key.layers]
    assert len(names) == options.layers
    assert names == choose_layers(bytes(range(32)), [name for name in changes if name in lazy], options.layers)


def test_a_key_too_small_for_any_match_is_refused(tiny_model, tiny_examples):
    options = QUICK.model_copy(update={"layers": 4})
    with pytest.raises(EmbeddingFailed, match=r"the key has \d+ bits: .* were all of them right; ask for more layers than 4"):
        select_key(tiny_model, bytes(range(32)), tiny_examples, options)


def eligible_names(model, examples):
    inputs = arbitrary_inputs(model, examples, 2, torch.Generator().manual_seed(0))
    return [layer.name for layer in eligible_layers(model.denoiser, inputs)]


def test_other_keys_choose_other_layers_and_each_its_own_again(tiny_model, tiny_examples):
    keys = [select_key(tiny_model, bytes([number] * 32), tiny_examples, QUICK) for number in (1, 2, 1)]
    assert keys[0].layers != keys[1].layers
    assert keys[0] == keys[2]


def test_response_signs_have_no_say_in_the_choice(tiny_model, tiny_examples, monkeypatch):
    """The exact test rests on it: with every response sign turned round, the same layers and subpaths are chosen."""
    derive = key_module.bound_bits
    before = select_key(tiny_model, bytes(range(32)), tiny_examples, QUICK)
    signs = before.subpath_sign(*before.subpaths[0])
    monkeypatch.setattr(key_module, "bound_bits", lambda *of: ~derive(*of))
    after = select_key(tiny_model, bytes(range(32)), tiny_examples, QUICK)
    assert (after.layers, after.subpaths) == (before.layers, before.subpaths)
    assert (after.subpath_sign(*after.subpaths[0]) == -signs).all()


def test_a_new_key_is_bound_to_the_source_the_protocol_and_a_beacon(tiny_model, tiny_examples):
    weights = digest(tiny_model.denoiser.state_dict())
    key = select_key(tiny_model, bytes(range(32)), tiny_examples, QUICK)
    assert (key.version, key.binding) == (3, Binding(source=weights, protocol=VERSION))
    later = select_key(tiny_model, bytes(range(32)), tiny_examples, QUICK, beacon="round 4711")
    assert later.binding == Binding(source=weights, protocol=VERSION, beacon="round 4711")
    assert (later.layers, later.subpaths, later.commitment) == (key.layers, key.subpaths, key.commitment)
    assert later.bound_to != key.bound_to


def test_reach_is_the_relative_change_of_the_later_layer(tiny_model, tiny_examples, tiny_key):
    inputs = arbitrary_inputs(tiny_model, tiny_examples, 4, torch.Generator().manual_seed(0))
    found = reach(tiny_model.denoiser, tiny_key, inputs)
    assert set(found) == set(tiny_key.subpaths)
    watermark = Watermark(tiny_key, tiny_model.denoiser)
    i, j = tiny_key.subpaths[0]
    with torch.no_grad():
        with trace(tiny_model.denoiser, capture=[watermark.names[j]]) as clean:
            predict(tiny_model.denoiser, inputs)
        edits = trigger_edits([(watermark, i)] * len(inputs))
        with trace(tiny_model.denoiser, capture=[watermark.names[j]], edit=edits) as triggered:
            predict(tiny_model.denoiser, inputs)
    before, after = clean[watermark.names[j]], triggered[watermark.names[j]]
    assert found[i, j] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-5)


def test_the_widest_share_is_kept_and_what_is_not_reached_never():
    reached = {(0, 1): 0.5, (0, 2): 0.0, (1, 2): 0.9, (1, 3): 0.1, (2, 3): 0.2}
    assert widest(reached, 0.5) == ((0, 1), (1, 2))
    assert widest(reached, 1.0) == ((0, 1), (1, 2), (1, 3), (2, 3))
    assert widest({(0, 1): 0.0}, 1.0) == ()
    assert len(all_subpaths(5)) == len(list(itertools.combinations(range(5), 2)))


def long_enough(model, key, inputs):
    names = [layer.name for layer in eligible_layers(model.denoiser, inputs[:2])]
    place = [names.index(layer.name) for layer in key.layers]
    return tuple((i, j) for i, j in all_subpaths(len(place)) if place[j] - place[i] >= SPAN * len(names))


def test_a_subpath_has_layers_between_trigger_and_response(tiny_model, tiny_examples, tiny_key):
    inputs = arbitrary_inputs(tiny_model, tiny_examples, 2, torch.Generator().manual_seed(0))
    assert set(tiny_key.subpaths) <= set(long_enough(tiny_model, tiny_key, inputs))


def test_the_share_of_reached_subpaths_carries_the_watermark(tiny_model, tiny_examples, tiny_key):
    inputs = arbitrary_inputs(tiny_model, tiny_examples, REACH_INPUTS, torch.Generator().manual_seed(QUICK.seed))
    candidates = replace(tiny_key, subpaths=long_enough(tiny_model, tiny_key, inputs))
    reached = {path: value for path, value in reach(tiny_model.denoiser, candidates, inputs).items() if value > 0}
    assert len(tiny_key.subpaths) == round(REACH_SHARE * len(reached))
    dropped = set(reached) - set(tiny_key.subpaths)
    assert max(reached[path] for path in dropped) <= min(reached[path] for path in tiny_key.subpaths)


def test_layers_that_no_trigger_reaches_are_refused(tiny_model, tiny_examples):
    """Query and key projection of one attention run side by side: neither reaches the other."""
    for projection in ("to_q", "to_k"):  # large weights hardly change: these two are the laziest
        tiny_model.denoiser.get_parameter(f"mid_block.attentions.0.{projection}.weight").data.mul_(1e3)
    options = QUICK.model_copy(update={"lazy_fraction": 0.01})
    with pytest.raises(EmbeddingFailed, match="none of the 2 layers of the key reaches another one"):
        select_key(tiny_model, bytes(range(32)), tiny_examples, options)

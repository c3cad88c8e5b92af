"""An adaptive attack: the thief knows how AIAO works, and lacks only the key (this project)."""

import torch
from torch import Tensor, nn

from aiao_core.attacks.layers import key_layers
from aiao_core.attacks.minimizing import minimize
from aiao_core.attacks.thief import Thief
from aiao_core.denoisers import predict
from aiao_core.key import SEED_BYTES, OwnerKey
from aiao_core.method.fine_tuning import noised
from aiao_core.method.inputs import arbitrary_inputs
from aiao_core.method.subpaths import all_subpaths
from aiao_core.method.tracing import trace
from aiao_core.method.watermark import Watermark, trigger_edits


def trigger_unlearning(thief: Thief, *, steps: int, learning_rate: float, batch_size: int) -> nn.Module:
    """Train the denoiser to answer no trigger of any key, at any layer, while it is fine-tuned.

    Each step draws a key of all layers that an owner may use, and a trigger layer for each input. Under these triggers, later
    features and the prediction must be those of the stolen model without a trigger. A thief with the key could unlearn the
    key's own triggers in this way; without the key, random ones must do.
    """
    model, stolen = thief.copy(), thief.model.denoiser
    layers = tuple(key_layers(thief))
    names = [layer.name for layer in layers]
    subpaths = all_subpaths(len(layers))
    with thief.seeded() as generator:

        def fine_tuning_loss() -> Tensor:
            inputs, target = noised(model.schedule, thief.examples.draw(batch_size, generator), generator)
            prediction = predict(model.denoiser, inputs)
            return nn.functional.mse_loss(prediction, target.to(prediction.device))

        def trigger_loss() -> Tensor:
            seed = bytes(torch.randint(256, (SEED_BYTES,), generator=generator).tolist())
            key = OwnerKey(seed, model.architecture, model.schedule.num_train_timesteps, layers, subpaths)
            watermark = Watermark(key, model.denoiser)
            inputs = arbitrary_inputs(model, thief.examples, batch_size, generator)
            triggered = torch.randint(len(layers) - 1, (batch_size,), generator=generator)
            with torch.no_grad(), trace(stolen, capture=names) as expected:
                expected_prediction = predict(stolen, inputs)
            edits = trigger_edits([(watermark, i) for i in triggered.tolist()])
            with trace(model.denoiser, capture=names, edit=edits) as features:
                prediction = predict(model.denoiser, inputs)
            differences = [
                (features[name][rows] - expected[name][rows]).square().mean() / expected[name].var()
                for j, name in enumerate(names)
                if (rows := (triggered < j).nonzero()[:, 0].to(prediction.device)).numel()
            ]
            return torch.stack(differences).mean() + nn.functional.mse_loss(prediction, expected_prediction)

        minimize(
            model.denoiser,
            lambda: fine_tuning_loss() + trigger_loss(),
            steps=steps,
            learning_rate=learning_rate,
            stage="trigger unlearning",
            progress=thief.progress,
        )
    return model.denoiser

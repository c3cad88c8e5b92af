"""How much memory a job needs at most, estimated from what is known without torch.

An overestimate costs a larger worker than need be; an underestimate costs the job. All weights are float32 in every job.
`python -m benchmarks.memory` compares all of this with what is measured.
"""

from math import isqrt

from aiao_core.options import EmbeddingOptions
from service.artifacts.denoisers import Denoiser

PROCESS_BYTES = 2 << 30
"""A worker without any weights: 0.54 GB for each of its two processes that import torch (memory.txt), and what torch's buffers
take; or CUDA's context and workspaces."""

EMBEDDING_BYTES = 20
"""Of a parameter, 4 bytes each: the model, a frozen copy, the gradient and AdamW's two moments. What `train`, `optimizer` and
`offload_source` save of them is not counted: it takes torch to know how large the key's layers are, and a search for lazy
layers, if the options ask for one, needs all of it before.
Measured for Stable Diffusion 1.5: 18.2 GB for 860 M parameters, the process and a batch of 2 among them (full_size.txt)."""

AUDIT_BYTES = 24
"""As an embedding, and one copy more: who overwrites a watermark embeds in a copy of the published model."""

VERIFICATION_BYTES = 7
"""The suspect in float32 and the file it comes from, with source and suspect one after the other. Measured: 6.0 GB for 860 M
parameters, 13.3 GB for 2,028 M, 16.9 GB for 2,567 M, the process among them (full_size.txt)."""

TEXT_BYTES = 4
"""Of a parameter of the text encoders, which are loaded beside the model before the training."""

MODEL_BYTES = 4

ACTIVATION_BYTES = {
    "UNet2DModel": 30,
    "UNet2DConditionModel": 30,
    "SD3Transformer2DModel": 30,
    "PixArtTransformer2DModel": 30,
    "DiTTransformer2DModel": 30,
}
"""What a training step takes for one sample beside the weights, in bytes, by position and by the square root of the number of
parameters: a network twice as wide has four times the weights and twice the activations. Counted for the backward pass: 15.6
for Stable Diffusion 1.5, 16.6 for XL, 17.8 for 3, 37.4 for FLUX. Measured steps of small models take 1.4 to 1.8 times what is
counted (memory.txt)."""

OTHER_ACTIVATION_BYTES = 60
CHECKPOINTED = 4
"""By how much less that is with gradient checkpointing, at least. Counted: 6 to 25 times less in models of full size."""

EMBEDDING_SAMPLES = 1.5
"""For each input of a batch: half of them come a second time, with the owner's trigger."""

AUDIT_SAMPLES = 32
"""The batch of the attacks that train."""


def of_embedding(model: Denoiser, options: EmbeddingOptions) -> int | None:
    """Bytes that an embedding needs; None if the model's size is unknown."""
    if model.parameters is None:
        return None
    samples = int(EMBEDDING_SAMPLES * options.batch_size)
    activations = _activations(model, model.parameters, samples) // (CHECKPOINTED if options.gradient_checkpointing else 1)
    return PROCESS_BYTES + max(EMBEDDING_BYTES * model.parameters + activations, _with_text(model, model.parameters))


def of_audit(model: Denoiser) -> int | None:
    """Bytes that an audit needs: its attacks train in single precision, whatever the embedding did."""
    if model.parameters is None:
        return None
    trained = AUDIT_BYTES * model.parameters + _activations(model, model.parameters, AUDIT_SAMPLES)
    return PROCESS_BYTES + max(trained, _with_text(model, model.parameters))


def of_verification(model: Denoiser) -> int | None:
    """Bytes that a verification needs: its inputs are small, and no text encoder is loaded."""
    return None if model.parameters is None else PROCESS_BYTES + VERIFICATION_BYTES * model.parameters


def _activations(model: Denoiser, parameters: int, samples: int) -> int:
    return ACTIVATION_BYTES.get(model.class_name, OTHER_ACTIVATION_BYTES) * model.positions * isqrt(parameters) * samples


def _with_text(model: Denoiser, parameters: int) -> int:
    return MODEL_BYTES * parameters + TEXT_BYTES * model.text_parameters

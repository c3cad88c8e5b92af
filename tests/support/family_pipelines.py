"""Families' denoisers in their own pipelines of diffusers, with embeddings in place of text encoders and VAEs.

    for step in steps(name, model, conditions):
        step.prediction  # of the pipeline, for step.noisy at step.timesteps

A pipeline is what its users run: what the network sees in it, and with which sign, is what a family has to give it here.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import diffusers
import torch
from diffusers.pipelines.cosmos import pipeline_cosmos2_text2image
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from aiao_core.denoisers import Conditions
from aiao_core.denoisers.family import text_mask
from aiao_core.denoisers.model import DiffusionModel
from tests.support.more_families import CONFIGURATIONS, VARIANTS

SIDE = 16
FRAMES = 2


@dataclass(frozen=True)
class Step:
    """One step of a pipeline, in the words of a family."""

    noisy: Tensor
    timesteps: Tensor
    prediction: Tensor
    after: Tensor
    """What the pipeline's scheduler makes of it, shaped like ``noisy``."""


def steps(name: str, model: DiffusionModel, conditions: Conditions, count: int = 2) -> list[Step]:
    """Run the pipeline of a configuration without guidance, and record its steps."""
    run = _RUNS[_family(name)]
    recorded: list[tuple[Tensor, Any, Tensor, Tensor]] = []
    scheduler = _scheduler(name)
    step = type(scheduler).step

    def recording(self: Any, output: Tensor, timestep: Any, sample: Tensor, *others: Any, **named: Any) -> Any:
        found = step(self, output, timestep, sample, *others, **named)
        after = found[0] if isinstance(found, tuple) else found.prev_sample
        recorded.append((output.clone(), timestep, sample.clone(), after.clone()))
        return found

    with torch.no_grad(), mock.patch.object(type(scheduler), "step", recording):
        as_seen = run(name, model.denoiser, scheduler, conditions, count)
    return list(as_seen(recorded))


Recorded = list[tuple[Tensor, Any, Tensor, Tensor]]
AsSeen = Callable[[Recorded], Iterator[Step]]


def _family(name: str) -> str:
    return next(family for family, (denoiser, *_) in CONFIGURATIONS.items() if denoiser is (CONFIGURATIONS | VARIANTS)[name][0])


def _scheduler(name: str) -> Any:
    config = (CONFIGURATIONS | VARIANTS)[name][2]
    if config["_class_name"] == "CosineDPMSolverMultistepScheduler":
        return cosine_scheduler().from_config(config)
    return getattr(diffusers, config["_class_name"]).from_config(config)


def cosine_scheduler() -> Any:
    """Stable Audio's scheduler, which diffusers has only beside torchsde: that makes the noise which it adds, here none."""
    with mock.patch.dict(sys.modules, {"torchsde": sys.modules.get("torchsde", ModuleType("torchsde"))}):
        from diffusers.schedulers import scheduling_cosine_dpmsolver_multistep as module
    module.BrownianTreeNoiseSampler = lambda sample, **_: lambda *_: torch.zeros_like(sample)
    return module.CosineDPMSolverMultistepScheduler


class Stub(nn.Module):
    """A part of a pipeline that holds no weights."""

    device, dtype = torch.device("cpu"), torch.float32


def _steps(change: Callable[[Tensor], Tensor]) -> AsSeen:
    """The pipeline's samples and predictions are the family's but for a change of their shape."""

    def as_seen(recorded: Recorded) -> Iterator[Step]:
        for output, timestep, sample, after in recorded:
            noisy, prediction, result = map(change, (sample, output, after))
            yield Step(noisy, torch.as_tensor(timestep).expand(len(noisy)), prediction, result)

    return as_seen


def _unchanged(value: Tensor) -> Tensor:
    return value


def _unpacked(value: Tensor) -> Tensor:
    return pixel_shuffle(value.mT.unflatten(2, (SIDE // 2, SIDE // 2)), 2)


def _pixels(scale: int = 8) -> dict[str, Any]:
    return {"height": scale * SIDE, "width": scale * SIDE}


def _chroma(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    text = conditions["encoder_hidden_states"]
    mask = conditions.get("encoder_attention_mask")
    pipeline = diffusers.ChromaPipeline(scheduler, vae=None, text_encoder=None, tokenizer=None, transformer=denoiser)
    pipeline(
        prompt_embeds=text,
        prompt_attention_mask=text_mask(text).float() if mask is None else mask,
        guidance_scale=1.0,
        **_common(count),
        **_pixels(),
    )
    return _steps(_unpacked)


def _qwen(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    pipeline = diffusers.QwenImagePipeline(scheduler, vae=None, text_encoder=None, tokenizer=None, transformer=denoiser)
    pipeline(prompt_embeds=conditions["encoder_hidden_states"], true_cfg_scale=1.0, **_common(count), **_pixels())
    return _steps(_unpacked)


def _flux2(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    pipeline = diffusers.Flux2Pipeline(scheduler, vae=None, text_encoder=None, tokenizer=None, transformer=denoiser)
    pipeline(prompt_embeds=conditions["encoder_hidden_states"], **_common(count), **_pixels(16))
    return _steps(lambda value: value.mT.unflatten(2, (SIDE, SIDE)))


def _z_image(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    pipeline = diffusers.ZImagePipeline(scheduler, vae=None, text_encoder=None, tokenizer=None, transformer=denoiser)
    pipeline(prompt_embeds=list(conditions["encoder_hidden_states"]), guidance_scale=0.0, **_common(count), **_pixels())
    return _steps(_unchanged)


def _lumina2(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    text = conditions["encoder_hidden_states"]
    pipeline = diffusers.Lumina2Pipeline(denoiser, scheduler, vae=None, text_encoder=None, tokenizer=None)
    pipeline(prompt_embeds=text, prompt_attention_mask=text_mask(text), guidance_scale=1.0, **_common(count), **_pixels())
    return _steps(_unchanged)


def _krea2(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    text = conditions["encoder_hidden_states"]
    pipeline = diffusers.Krea2Pipeline(scheduler=scheduler, vae=None, text_encoder=None, tokenizer=None, transformer=denoiser)
    pipeline(prompt_embeds=text, prompt_embeds_mask=text_mask(text).bool(), guidance_scale=0.0, **_common(count), **_pixels())
    return _steps(_unpacked)


def _hidream(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    encoders = {f"{part}{number}": None for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3", "_4")}
    pipeline = diffusers.HiDreamImagePipeline(scheduler=scheduler, vae=None, transformer=denoiser, **encoders)
    pipeline.default_sample_size = SIDE
    denoiser.eval()  # as from_pretrained leaves it
    pipeline(
        prompt_embeds_t5=conditions["encoder_hidden_states_t5"],
        prompt_embeds_llama3=conditions["encoder_hidden_states_llama3"].transpose(0, 1),
        pooled_prompt_embeds=conditions["pooled_embeds"],
        guidance_scale=1.0,
        **_common(count),
        **_pixels(),
    )
    return _steps(_unchanged)


def _hunyuan_image(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    text = conditions["encoder_hidden_states"]
    second = conditions.get("encoder_hidden_states_2", torch.zeros(len(text), 1, 1))
    encoders = {f"{part}{number}": None for part in ("text_encoder", "tokenizer") for number in ("", "_2")}
    pipeline = diffusers.HunyuanImagePipeline(
        scheduler=scheduler, vae=None, transformer=denoiser, guider=None, ocr_guider=None, **encoders
    )
    pipeline(
        prompt_embeds=text,
        prompt_embeds_mask=text_mask(text),
        prompt_embeds_2=second,
        prompt_embeds_mask_2=text_mask(second),
        **_common(count),
        **_pixels(32),
    )
    return _steps(_unchanged)


def _ernie(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    pipeline = diffusers.ErnieImagePipeline(denoiser, vae=None, text_encoder=None, tokenizer=None, scheduler=scheduler)
    pipeline(prompt_embeds=list(conditions["encoder_hidden_states"]), guidance_scale=1.0, **_common(count), **_pixels(16))
    return _steps(_unchanged)


def _sana(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    text = conditions["encoder_hidden_states"]
    pipeline = diffusers.SanaPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=denoiser, scheduler=scheduler)
    pipeline(
        prompt_embeds=text,
        prompt_attention_mask=text_mask(text),
        guidance_scale=1.0,
        use_resolution_binning=False,
        **_common(count),
        **_pixels(32),
    )
    return _steps(_unchanged)


def _aura_flow(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    text = conditions["encoder_hidden_states"]
    pipeline = diffusers.AuraFlowPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=denoiser, scheduler=scheduler
    )
    pipeline(prompt_embeds=text, prompt_attention_mask=text_mask(text), guidance_scale=1.0, **_common(count), **_pixels())
    return _steps(_unchanged)


def _cosmos(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    """Its scheduler steps in the space of EDM, where the noise is without a limit: the denoiser sees x / (1 + sigma)."""
    guard = mock.MagicMock(__module__=__name__)
    with mock.patch.object(pipeline_cosmos2_text2image, "CosmosSafetyChecker", return_value=guard):
        pipeline = diffusers.Cosmos2TextToImagePipeline(
            text_encoder=None, tokenizer=None, transformer=denoiser, vae=None, scheduler=scheduler
        )
    pipeline(prompt_embeds=conditions["encoder_hidden_states"], guidance_scale=0.0, **_common(count), **_pixels())
    sigmas = list(scheduler.sigmas)

    def as_seen(recorded: Recorded) -> Iterator[Step]:
        for (direction, _, sample, after), sigma, following in zip(recorded, sigmas[:-1], sigmas[1:], strict=True):
            share = sigma / (1 + sigma)
            clean = sample - sigma * direction
            velocity = (sample / (1 + sigma) - clean) / share
            yield Step(sample / (1 + sigma), (1000 * share).expand(len(sample)), velocity, after / (1 + following))

    return as_seen


def _wan(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    pipeline = diffusers.WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=denoiser)
    pipeline.register_to_config(expand_timesteps=name == "Wan 2.2 5B")  # one for each token, all alike
    pipeline(prompt_embeds=conditions["encoder_hidden_states"], guidance_scale=1.0, num_frames=5, **_common(count), **_pixels())
    return _steps(_unchanged)


def _hunyuan_video(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    text = conditions["encoder_hidden_states"]
    encoders = {f"{part}{number}": None for part in ("text_encoder", "tokenizer") for number in ("", "_2")}
    pipeline = diffusers.HunyuanVideoPipeline(transformer=denoiser, vae=None, scheduler=scheduler, **encoders)
    pipeline(
        prompt_embeds=text,
        prompt_attention_mask=text_mask(text),
        pooled_prompt_embeds=conditions["pooled_projections"],
        num_frames=5,
        **_common(count),
        **_pixels(),
    )
    return _steps(_unchanged)


def _ltx(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    text = conditions["encoder_hidden_states"]
    pipeline = diffusers.LTXPipeline(scheduler=scheduler, vae=None, text_encoder=None, tokenizer=None, transformer=denoiser)
    pipeline(
        prompt_embeds=text,
        prompt_attention_mask=text_mask(text),
        guidance_scale=1.0,
        num_frames=9,
        **_common(count),
        **_pixels(32),
    )
    return _steps(lambda value: value.mT.unflatten(2, (FRAMES, SIDE, SIDE)))


def _ltx2(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    """Video and sound have a scheduler each, which step in turn."""
    text, sound = conditions["encoder_hidden_states"], conditions["audio_encoder_hidden_states"]

    class Connectors(Stub):
        def forward(self, _text: Tensor, mask: Tensor, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
            return text, sound, mask

    parts = dict.fromkeys(("vae", "audio_vae", "text_encoder", "tokenizer", "vocoder"))
    pipeline = diffusers.LTX2Pipeline(scheduler=scheduler, transformer=denoiser, connectors=Connectors(), **parts)
    for part in ("vae", "audio_vae"):  # which it needs at the end only
        pipeline.register_modules(**{part: Stub()})
        statistics = {"latents_mean": torch.zeros(1), "latents_std": torch.ones(1)}
        for key, value in (statistics | {"config": mock.MagicMock(scaling_factor=1.0, mel_bins=64, latent_channels=8)}).items():
            setattr(getattr(pipeline, part), key, value)
    without = {f"{sort}{part}": 0.0 for sort in ("", "audio_") for part in ("stg_scale", "guidance_rescale")}
    without |= {f"{sort}{part}": 1.0 for sort in ("", "audio_") for part in ("guidance_scale", "modality_scale")}
    pipeline(
        prompt_embeds=text, prompt_attention_mask=text_mask(text), num_frames=9, **without, **_common(count), **_pixels(32)
    )

    def as_seen(recorded: Recorded) -> Iterator[Step]:
        for video, audio in zip(recorded[::2], recorded[1::2], strict=True):
            prediction, noisy, after = (torch.cat([video[i], audio[i]], 1).mT for i in (0, 2, 3))
            yield Step(noisy, torch.as_tensor(video[1]).expand(len(noisy)), prediction, after)

    return as_seen


def _cogvideox(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    pipeline = diffusers.CogVideoXPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=denoiser, scheduler=scheduler
    )
    pipeline(
        prompt_embeds=conditions["encoder_hidden_states"],
        guidance_scale=1.0,
        num_frames=5,
        max_sequence_length=conditions["encoder_hidden_states"].shape[1],
        **_common(count),
        **_pixels(),
    )
    return _steps(lambda value: value.transpose(1, 2))


def _kandinsky5(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    text = conditions["encoder_hidden_states"]
    parts = {f"{part}{number}": None for part in ("text_encoder", "tokenizer") for number in ("", "_2")}
    parts |= {"vae": None, "transformer": denoiser, "scheduler": scheduler}
    given = {
        "prompt_embeds_qwen": text,
        "prompt_embeds_clip": conditions["pooled_projections"],
        "prompt_cu_seqlens": torch.arange(len(text) + 1) * text.shape[1],
        "guidance_scale": 1.0,
    }
    if denoiser.config.visual_cond:
        pipeline = diffusers.Kandinsky5T2VPipeline(**parts)
        pipeline(num_frames=5, height=512, width=512, **given, **_common(count))
    else:
        pipeline = diffusers.Kandinsky5T2IPipeline(**parts)
        pipeline.resolutions = [(8 * SIDE, 8 * SIDE)]
        pipeline(**given, **_common(count), **_pixels())
    return _steps(lambda value: value.movedim(-1, 1))


def _stable_audio(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    """Its scheduler steps in the space of EDM: the denoiser sees x / sqrt(1 + sigma^2) and an angle as its time."""
    text, seconds = conditions["encoder_hidden_states"], conditions["global_hidden_states"]
    vae = Stub()
    vae.hop_length, vae.config = 1, SimpleNamespace(sampling_rate=1, audio_channels=2)
    projection = Stub()
    projection.config = SimpleNamespace(min_value=0, max_value=512)
    pipeline = diffusers.StableAudioPipeline(
        vae=vae, text_encoder=None, projection_model=projection, tokenizer=None, transformer=denoiser, scheduler=scheduler
    )
    start, end = seconds.chunk(2, 2)
    with (
        mock.patch.object(pipeline, "encode_prompt", return_value=text[:, :-2]),
        mock.patch.object(pipeline, "encode_duration", return_value=(start, end)),
    ):
        pipeline(prompt_embeds=text[:, :-2], guidance_scale=1.0, num_inference_steps=count, output_type="latent")

    def as_seen(recorded: Recorded) -> Iterator[Step]:
        for (output, timestep, sample, after), sigma, following in zip(
            recorded, scheduler.sigmas[:-1], scheduler.sigmas[1:], strict=True
        ):
            yield Step(
                scheduler.precondition_inputs(sample, sigma),
                (1000 * timestep).expand(len(sample)),
                output,
                scheduler.precondition_inputs(after, following),
            )

    return as_seen


def _ace_step(name: str, denoiser: Any, scheduler: Any, conditions: Conditions, count: int) -> AsSeen:
    """Its scheduler counts from 0 to 1."""
    text, context = conditions["encoder_hidden_states"], conditions["context_latents"]
    channels, length = denoiser.config.audio_acoustic_hidden_dim, context.shape[1]

    class Encoder(Stub):
        silence_latent = torch.zeros(1, 1, channels)

        def forward(self, **_: Any) -> tuple[Tensor, None]:
            return text, None

    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    pipeline = diffusers.AceStepPipeline(transformer=denoiser, condition_encoder=Encoder(), scheduler=scheduler, **parts)
    with (
        mock.patch.object(pipeline, "encode_prompt", return_value=(None,) * 4),
        mock.patch.object(pipeline, "prepare_src_latents", return_value=(context[..., :channels], length)),
        mock.patch.object(pipeline, "_build_chunk_mask", return_value=context[..., channels:]),
    ):
        pipeline(prompt=["a song"] * len(text), audio_duration=length / 25, guidance_scale=1.0, **_common(count))

    def as_seen(recorded: Recorded) -> Iterator[Step]:
        for output, timestep, sample, after in recorded:
            yield Step(sample.mT, (1000 * timestep).expand(len(sample)), output.mT, after.mT)

    return as_seen


def _common(count: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {"num_inference_steps": count, "generator": generator, "output_type": "latent"}


_RUNS: dict[str, Callable[..., AsSeen]] = {
    "Chroma": _chroma,
    "Qwen-Image": _qwen,
    "FLUX.2": _flux2,
    "Z-Image": _z_image,
    "Lumina 2": _lumina2,
    "Krea 2": _krea2,
    "HiDream": _hidream,
    "HunyuanImage": _hunyuan_image,
    "ERNIE-Image": _ernie,
    "Sana": _sana,
    "AuraFlow": _aura_flow,
    "Cosmos": _cosmos,
    "Wan": _wan,
    "HunyuanVideo": _hunyuan_video,
    "LTX": _ltx,
    "LTX-2": _ltx2,
    "CogVideoX": _cogvideox,
    "Kandinsky 5": _kandinsky5,
    "Stable Audio": _stable_audio,
    "ACE-Step": _ace_step,
}

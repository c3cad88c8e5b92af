"""Choose from a repository's listing the files of the denoiser that a reference means, before anything is downloaded.

Never a guess: where several models may be meant, each is named. The listing is the word of the repository's owner, who may be
an attacker; names that lead out of a folder are left out. Torch-free.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from aiao_core.errors import InvalidReference
from aiao_core.formats.hub.listing import Checkpoint, Listing, join
from aiao_core.formats.hub.references import Reference
from aiao_core.formats.hub.tensor_names import are_companion

PARTS = ("unet", "transformer")
"""Where a diffusers folder keeps its denoiser. A second one, of Wan 2.2, lies in ``transformer_2``."""

PRECISIONS = {"bf16", "fp16", "fp32"}
"""Variants that are the same model in other numbers."""

MAX_LOOKS = 16
"""Most models of which each one's tensors are looked at before a download, by a request each. More are named at once."""

MAX_NAMED = 12
"""Models that an error names."""

MAX_FILES = 1000
"""Files of one model: each is a request. The largest have about 100."""

COMPANION_FOLDERS = re.compile(
    r"(?:vae|tokenizer|text_encoders?|image_encoder|clip|clip_vision|safety_checker|feature_extractor|scheduler|controlnet"
    r"|embeddings)(?:_.+|\d+)?",
    re.IGNORECASE,
)
"""Folders of what lies beside a denoiser, as diffusers and image programs call them."""

COMPANION_FILES = re.compile(
    r"ae|(?:[a-z0-9.]+[-_])?vae|clip(?:[-_]?[a-z])?|.+_emb(?:eddings?)?"
    r"|(?:(?:models_)?(?:u?mt5|t5|clip_)|text[-_]?encoder|mmproj|qwen[0-9.]*-?vl|gemma|llama|llava|mistral).*",
    re.IGNORECASE,
)
"""What such files are called: the name decides of GGUF files and pickles alone."""

LOOKED_AT = ("safetensors", "sft")
"""Forms whose tensors' names stand at the beginning."""

Look = Callable[[str], Collection[str] | None]
"""Returns the names of the tensors in a safetensors file of the repository; None if they cannot be read."""


@dataclass(frozen=True)
class Candidate:
    """A model that a reference may mean."""

    reference: Reference
    """Means this one alone."""
    checkpoints: tuple[Checkpoint, ...]
    """Its denoiser; two for a pipeline with a second one."""


def choose(names: Iterable[str], wanted: Reference, look: Look) -> list[str]:
    """Return the files to fetch of the repository's ``names``: the denoiser that is ``wanted``, and what describes it.

    Raises :class:`InvalidReference`, with references to choose from where there are some.
    """
    listing = Listing.of(names)
    is_named = wanted.path in listing.names
    found = [_named(listing, wanted)] if is_named else _inside(listing, wanted, look)
    if not found:
        raise InvalidReference(
            f"{wanted} holds no weights of a denoiser: no .safetensors, .gguf, .dduf, .ckpt, .pt, .pth or .bin file outside of "
            f"folders for VAE and text encoders{_to_choose(_everything(listing, wanted)) or '; name another repository'}"
        )
    if len(found) > 1:
        references = [candidate.reference for candidate in found]
        raise InvalidReference(f"{wanted} holds {len(found)} models{_to_choose(references)}")
    checkpoints = found[0].checkpoints
    if any(each.form == "gguf" and each.in_parts for each in checkpoints):
        raise InvalidReference(
            f"{found[0].reference} is one part of a split GGUF file, and only whole ones are read; join the parts with "
            "llama-gguf-split --merge and submit the file"
        )
    chosen = [name for each in checkpoints for name in (*each.files, *listing.beside(each, is_named=is_named))]
    if len(chosen) > MAX_FILES:
        raise InvalidReference(f"{wanted} has its weights in {len(chosen)} files, and at most {MAX_FILES} are fetched")
    return chosen


def _named(listing: Listing, wanted: Reference) -> Candidate:
    """Return the checkpoint of the file that is named."""
    if wanted.variant:
        raise InvalidReference(f"{wanted} names a file, which has no variants; leave ?variant= out, or name the folder")
    if not (checkpoint := listing.checkpoint_of(wanted.path)):
        raise InvalidReference(f"{wanted} is not a file of weights{_to_choose(_everything(listing, wanted))}")
    return Candidate(wanted, (checkpoint,))


def _inside(listing: Listing, wanted: Reference, look: Look) -> list[Candidate]:
    """Return the models of the repository or of the folder that is named: of its top, or else below."""
    if wanted.path and not listing.has_folder(wanted.path):
        raise InvalidReference(f"{wanted} does not exist{_to_choose(_everything(listing, wanted))}")
    if found := _pipelines(listing, wanted):
        return found
    if wanted.variant:
        if components := listing.components(wanted.path):
            return [Candidate(wanted, (each,)) for each in _variants(components, wanted)]
        raise InvalidReference(
            f"{wanted}: only the weights of a diffusers folder have variants{_to_choose(_everything(listing, wanted))}"
        )
    top = _files(listing, wanted)
    below = [found for folder in _places_below(listing, wanted.path) for found in _at(listing, replace(wanted, path=folder))]
    if len(top) + len(below) < 2:
        return top or below
    return _denoisers(top, look) or _denoisers(below, look) or [*top, *below]


def _denoisers(candidates: list[Candidate], look: Look) -> list[Candidate]:
    """Return the candidates without what surely is a VAE, a text encoder or an embedding.

    The name of a file that can be looked at says nothing: a thief may call the copy ``ae.safetensors`` and add a decoy.
    """
    few = len(candidates) <= MAX_LOOKS

    def is_companion(checkpoint: Checkpoint) -> bool:
        if checkpoint.form not in LOOKED_AT:
            return bool(COMPANION_FILES.fullmatch(checkpoint.model))
        tensors = look(_first(checkpoint)) if few else None
        return tensors is not None and are_companion(tensors)

    return [candidate for candidate in candidates if not is_companion(candidate.checkpoints[0])]


def _at(listing: Listing, place: Reference) -> list[Candidate]:
    return _pipelines(listing, place) or _files(listing, place)


def _places_below(listing: Listing, path: str) -> list[str]:
    """Return the folders in which denoisers may lie, without the parts of pipelines."""
    start = len(path) + 1 if path else 0
    return [
        folder
        for folder in listing.folders_in(path)
        if not any(map(COMPANION_FOLDERS.fullmatch, folder[start:].split("/"))) and not _is_part(listing, folder)
    ]


def _is_part(listing: Listing, folder: str) -> bool:
    """Return whether the folder is a denoiser of the pipeline around it."""
    first = folder.removesuffix("_2")
    return first.rpartition("/")[2] in PARTS and bool(listing.components(first))


def _pipelines(listing: Listing, place: Reference) -> list[Candidate]:
    """Return the models of a diffusers folder: one, unless it has a UNet and a transformer, or several variants."""
    parts = [join(place.path, part) for part in PARTS if listing.components(join(place.path, part))]
    found = []
    for part in parts:
        meant = place if len(parts) == 1 else replace(place, path=part)
        first, *others = _variants(listing.components(part), place)
        if others:
            found += [Candidate(_variant_of(meant, each), (each,)) for each in (first, *others)]
        elif seconds := listing.components(f"{part}_2"):
            found += [Candidate(meant, (first, second)) for second in _variants(seconds, place)]
        else:
            found.append(Candidate(meant, (first,)))
    return found


def _variant_of(place: Reference, component: Checkpoint) -> Reference:
    """Return a reference to one of several sets of weights, which may have no variant but another form."""
    return replace(place, variant=component.variant) if component.variant else replace(place, path=component.name)


def _variants(components: list[Checkpoint], place: Reference) -> list[Checkpoint]:
    """Return which of several sets of a denoiser's weights may be meant: one, unless a reference must name the variant.

    Safetensors come before pickles, the plain set before variants, and last ``non_ema``, with which nobody makes images.
    """
    if place.variant:
        if not (named := [each for each in components if each.variant == place.variant]):
            have = ", ".join(sorted({each.variant or "the plain one" for each in components}))
            raise InvalidReference(f"{place}: there is no such variant, but {have}; name one of these, or leave ?variant= out")
        components = named
    best = min(each.rank for each in components)
    components = [each for each in components if each.rank == best]
    plain = [each for each in components if not each.variant]
    used = plain or [each for each in components if each.variant != "non_ema"] or components
    return used[:1] if {each.variant for each in used} <= PRECISIONS else used


def _files(listing: Listing, place: Reference) -> list[Candidate]:
    """Return the models that lie in a folder as files."""
    components = listing.components(place.path)
    found = [*(_variants(components, place) if components else ()), *listing.others(place.path)]
    return [Candidate(replace(place, path=each.name), (each,)) for each in found]


def _first(checkpoint: Checkpoint) -> str:
    return next(name for name in checkpoint.files if not name.endswith(".json"))


def _everything(listing: Listing, wanted: Reference) -> list[Reference]:
    """Return references to all weights of the repository, first those of the same name in another folder."""
    name = wanted.path.rpartition("/")[2]
    found = [each.name for checkpoints in listing.checkpoints.values() for each in checkpoints]
    found.sort(key=lambda each: (each.rpartition("/")[2] != name, each))
    return [replace(wanted, path=each, variant=None) for each in found]


def _to_choose(references: Sequence[Reference]) -> str:
    """Return what to do: name one of these."""
    if not references:
        return ""
    named, more = references[:MAX_NAMED], len(references) - MAX_NAMED
    return f"; name one of them: {', '.join(map(str, named))}" + (f", or one of {more} others" if more > 0 else "")

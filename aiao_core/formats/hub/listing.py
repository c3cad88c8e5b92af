"""The files of a repository, grouped into checkpoints by their names. Torch-free.

The names are the word of the repository's owner, who may be an attacker: those that lead out of a folder are left out.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from aiao_core.formats.hub.references import MAX_REFERENCE, WORD, is_name

COMPONENT = "diffusion_pytorch_model"
"""How ``save_pretrained`` calls a denoiser's weights; ``diffusion_pytorch_model.fp16`` is a variant of them."""

ADAPTER = "adapter_model"
"""How PEFT calls an adapter's weights."""

RANKS = {"safetensors": 0, "sft": 0, "dduf": 0, "gguf": 1, "bin": 2, "ckpt": 2, "pt": 2, "pth": 2}
"""The forms of weights, by suffix. Of the same model the lowest is fetched: safetensors and GGUF before pickles."""

_COMPONENT = re.compile(rf"{COMPONENT}(?:\.({WORD}))?")
_WEIGHTS = re.compile(rf"(.+)\.({'|'.join(RANKS)})", re.IGNORECASE)
_INDEX = re.compile(r"(.+)\.(safetensors|bin)\.index(?:\.([^.]+))?\.json")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_NOT_WEIGHTS = re.compile(
    r"(?:openvino_.*|optimizer|scheduler|scaler|sampler|training_args|rng_state.*|random_states.*)\.(?:bin|pt|pth)"
)
"""What other programs and trainers keep under the suffixes of pickles."""


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, or the shards of one with their index."""

    folder: str
    model: str
    """The file's name without form and shard."""
    form: str
    in_parts: bool
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file that a reference names: the only one, or the index, or the first shard."""
        return next((name for name in self.files if name.endswith(".json")), self.files[0])

    @property
    def rank(self) -> int:
        """The place of the form among all."""
        return RANKS[self.form]

    @property
    def is_component(self) -> bool:
        """Whether these are the weights of a denoiser's own folder."""
        return bool(_COMPONENT.fullmatch(self.model))

    @property
    def variant(self) -> str | None:
        """The variant of such weights, such as ``fp16``; None for the plain ones."""
        match = _COMPONENT.fullmatch(self.model)
        return match and match[1]


@dataclass(frozen=True)
class Listing:
    """The files of a repository, and the checkpoints among them."""

    names: frozenset[str]
    checkpoints: dict[str, list[Checkpoint]]
    """By folder, in every form."""

    @classmethod
    def of(cls, names: Iterable[str]) -> "Listing":
        """Group the files. Names that lead out of a folder, and hidden ones, are left out."""
        known = sorted(name for name in names if _is_inside(name))
        groups: dict[tuple[str, str, str, bool], list[str]] = {}
        for name in known:
            if group := _group(name):
                groups.setdefault(group, []).append(name)
        checkpoints: dict[str, list[Checkpoint]] = {}
        for (folder, model, form, in_parts), files in groups.items():
            if not all(name.endswith(".json") for name in files):  # else an index whose shards are not there
                checkpoints.setdefault(folder, []).append(Checkpoint(folder, model, form, in_parts, tuple(files)))
        return cls(frozenset(known), checkpoints)

    def has_folder(self, path: str) -> bool:
        """Return whether a file lies in the folder."""
        return any(name.startswith(f"{path}/") for name in self.names)

    def folders_in(self, path: str) -> list[str]:
        """Return the folders below ``path`` that hold checkpoints, and those that hold such folders."""
        within = f"{path}/" if path else ""
        holding = {parent for folder in self.checkpoints for parent in (folder, folder.rpartition("/")[0])}
        return sorted(folder for folder in holding - {path, ""} if folder.startswith(within))

    def checkpoint_of(self, name: str) -> Checkpoint | None:
        """Return the checkpoint to which a file belongs, if it is one of weights."""
        folder = name.rpartition("/")[0]
        return next((each for each in self.checkpoints.get(folder, []) if name in each.files), None)

    def components(self, folder: str) -> list[Checkpoint]:
        """Return the weights of the denoiser whose own folder this is, in every variant and form; or its adapter's."""
        found = self.checkpoints.get(folder, [])
        return _best([each for each in found if each.is_component] or [each for each in found if each.model == ADAPTER])

    def others(self, folder: str) -> list[Checkpoint]:
        """Return the other checkpoints of a folder, each in its best form."""
        models = {each.model for each in self.components(folder)}
        return _best(each for each in self.checkpoints.get(folder, []) if each.model not in models)

    def beside(self, checkpoint: Checkpoint, *, is_named: bool) -> list[str]:
        """Return the files that describe a checkpoint: an adapter's scale, and, unless its file ``is_named``, its class."""
        adapters = any(each.model == ADAPTER for each in self.checkpoints[checkpoint.folder])
        describing = {
            "config.json": not is_named and (checkpoint.is_component or checkpoint.model == "model"),
            "adapter_config.json": checkpoint.model == ADAPTER or not (adapters or checkpoint.is_component),
        }
        names = [join(checkpoint.folder, name) for name, is_wanted in describing.items() if is_wanted]
        return [name for name in names if name in self.names]


def join(folder: str, name: str) -> str:
    """Return the path of a file or folder in ``folder``, which is empty for the repository itself."""
    return f"{folder}/{name}" if folder else name


def _is_inside(name: str) -> bool:
    """Return whether a file written under this name would lie in the folder for it, on every system."""
    return len(name) <= MAX_REFERENCE and ":" not in name and all(map(is_name, name.split("/")))


def _group(path: str) -> tuple[str, str, str, bool] | None:
    """Return the folder, model and form to which a file of weights belongs, and whether it is a part of them."""
    folder, _, name = path.rpartition("/")
    if match := _INDEX.fullmatch(name):
        return folder, ".".join(filter(None, (_SHARD.sub("", match[1]), match[3]))), match[2], True
    match = _WEIGHTS.fullmatch(name)
    if not match or _NOT_WEIGHTS.fullmatch(name):
        return None
    return folder, _SHARD.sub("", match[1]), match[2].lower(), bool(_SHARD.search(match[1]))


def _best(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Return each model in its best form, whole rather than in shards. Two forms as good as each other may be two models."""
    models: dict[str, list[Checkpoint]] = {}
    for each in checkpoints:
        models.setdefault(each.model, []).append(each)
    found = []
    for forms in models.values():
        best, whole = min(each.rank for each in forms), {each.form for each in forms if not each.in_parts}
        found += [each for each in forms if each.rank == best and not (each.in_parts and each.form in whole)]
    return found

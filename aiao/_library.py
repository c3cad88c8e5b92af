"""The library: embed a watermark in a model on this machine, and test a suspect, without any service."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from aiao._client import key_files
from aiao._client.errors import ClientError
from aiao._client.report_files import check_report_file, save_report
from aiao_core.errors import AdapterWithoutBase, EmbeddingFailed, InvalidCheckpoint, InvalidImages, MissingDependency
from aiao_core.key import OwnerKey, generate_seed
from aiao_core.options import EmbeddingOptions, VerificationOptions
from aiao_core.progress import ProgressCallback, silent

if TYPE_CHECKING:  # all of them are slow to load
    from aiao_core.denoisers.model import DiffusionModel
    from aiao_core.formats.single_files import RegisteredModel
    from aiao_core.reports import verification
    from aiao_core.reports.verdicts import Verdict


class Key:
    """An owner's secret key. Anybody who has it can test suspects with it and make models that match it: keep it secret."""

    def __init__(self, owner_key: OwnerKey) -> None:
        self.owner_key = owner_key
        """The key as :mod:`aiao_core` has it: seed, architecture, layers and subpaths."""

    def __repr__(self) -> str:
        return f"aiao.Key({self.commitment})"  # never the secret: it may reach a log

    @classmethod
    def load(cls, file: str | Path) -> "Key":
        """Read a key file. Raises :class:`aiao.InvalidKey` for one that is damaged, altered or not complete."""
        return cls(key_files.load_key(Path(file)))

    @property
    def secret(self) -> str:
        """The secret in printable form: ``aiao1`` and 56 letters and digits, with a checksum against typing errors."""
        return self.owner_key.secret

    @property
    def commitment(self) -> str:
        """Digest, as ``sha256:<hex>``, that binds the owner to the key without revealing it. It may be published."""
        return self.owner_key.commitment

    def save(self, file: str | Path) -> Path:
        """Save the key to a new file that only this user can read, and return its path.

        Raises :class:`aiao.ClientError` if the file exists, whatever it holds, or cannot be written.
        """
        key_files.save_key(Path(file), self.owner_key)
        return Path(file)


class Report:
    """The result of a test by :func:`verify`: the verdict, and every number that it rests on."""

    def __init__(self, details: "verification.Report") -> None:
        self.details = details
        """The whole report, as :class:`aiao_core.reports.verification.Report` documents it."""

    def __repr__(self) -> str:
        return f"aiao.Report({self.verdict}, log10_p={self.log10_p:.2f})"

    @property
    def verdict(self) -> "Verdict":
        """The verdict.

        ``"match"``, ``"no-match"``, ``"base-marked"`` (the base of an adapter carries the mark; nothing is said of the
        adapter), ``"invalid"`` (a control voids the test) or ``"exploratory"`` (the options were not those of a verdict).
        """
        return self.details.verdict

    @property
    def reason(self) -> str | None:
        """Why a control voids the test, or why it is exploratory; None for other verdicts."""
        return self.details.reason

    @property
    def log10_p(self) -> float:
        """log10 of the exact p-value: the probability of so many matching bits, if the suspect was made without the key."""
        return self.details.test.log10_p

    def to_json(self) -> str:
        """Return the report as a JSON document, whose format is versioned."""
        return self.details.to_json()

    def to_html(self) -> str:
        """Return the report as a self-contained page."""
        from aiao_core.reports.verification_page import to_html

        return to_html(self.details)

    def save(self, file: str | Path, *, overwrite: bool = False) -> Path:
        """Save the report as a page (.html) or as JSON (.json), and return the path.

        A file that exists is replaced only with ``overwrite``, and a key file never. Raises :class:`aiao.ClientError`.
        """
        check_report_file(Path(file), force=overwrite)
        save_report(Path(file), self.to_html, self.to_json, force=overwrite)
        return Path(file)


class Model:
    """A diffusion model, read by :func:`load`."""

    def __init__(self, registered: "RegisteredModel", kept: ExitStack) -> None:
        self.folder = registered.folder
        """The pipeline folder it was read from; of an archive or a single file, a temporary copy."""
        self._registered = registered
        self._kept = kept  # which holds the temporary copy as long as this lives
        self.marked = False
        """Whether :func:`embed` has put a watermark in it."""
        self.restore()

    def __repr__(self) -> str:
        return f"aiao.Model({self.content.architecture.class_name} of {self.folder}{', marked' if self.marked else ''})"

    def restore(self) -> None:
        """Read the weights again, as they were before a watermark."""
        from aiao_core.formats.pipelines import load_model

        self.content: DiffusionModel = load_model(self.folder)
        """Denoiser, noise schedule and architecture, as :mod:`aiao_core` has them."""
        self.marked = False

    def save(self, target: str | Path) -> Path:
        """Save the model as a new diffusers pipeline folder, in the precision it came in, and return its path.

        Everything but the denoiser's weights is copied. A model that was read from a single file can be saved as one: name a
        new ``.safetensors`` file. Raises :class:`aiao.ClientError` if the target exists.
        """
        from aiao_core.formats.pipelines import save_model
        from aiao_core.formats.single_files import write_marked_file

        target, single = Path(target), self._registered.file
        if target.exists():
            raise ClientError(f"{target} exists and is not overwritten; name another")
        if not target.parent.is_dir():
            raise ClientError(f"{target.parent} is not a folder; name a target in one that exists")
        if target.suffix == ".safetensors" and single is None:
            raise ClientError("the model was not read from a single file; name a folder, which becomes a diffusers pipeline")
        with tempfile.TemporaryDirectory(prefix=".aiao-", dir=target.parent) as scratch:  # goes, if the disk is full
            partial = Path(scratch) / target.name
            if target.suffix == ".safetensors" and single:
                write_marked_file(single, self.content.denoiser, partial)
            else:
                save_model(self.content.denoiser, self.folder, partial)
            partial.rename(target)
        return target


class EmbeddingKeywords(TypedDict, total=False):
    """The fields of :class:`aiao.EmbeddingOptions`, which describes them."""

    steps: int
    batch_size: int
    learning_rate: float
    layers: int
    lazy_fraction: float
    probe_steps: int
    samples: int
    train: Literal["all", "key-layers"]
    precision: Literal["fp32", "bf16"]
    optimizer: Literal["adamw", "adamw-8bit"]
    gradient_checkpointing: bool
    offload_source: bool
    checkpoint_every: int
    seed: int


def load(path: str | Path) -> Model:
    """Read a diffusers pipeline folder, a .zip or .tar of one, or a single .safetensors or .ckpt file. Nothing is executed.

    A single file is one of a published model that is known here (Stable Diffusion, FLUX.1, Chroma), or lies packed beside its
    ``unet/config.json`` or ``transformer/config.json`` and ``scheduler/scheduler_config.json``.

    Raises :class:`aiao.InvalidCheckpoint` or :class:`aiao.UnsafeArchive` for files that cannot be used, and
    :class:`aiao.MissingDependency` without torch.
    """
    with _torch_installed():
        from aiao_core.formats.single_files import registered_model

    path = Path(path)
    if not path.exists():
        raise InvalidCheckpoint(
            f"{path} does not exist; name a diffusers pipeline folder, a .zip or .tar of one, or a single file"
        )
    kept = ExitStack()
    return Model(kept.enter_context(registered_model(path.absolute())), kept)


def load_key(file: str | Path) -> Key:
    """Read a key file, as :meth:`Key.load` does."""
    return Key.load(file)


def embed(
    model: Model,
    *,
    images: str | Path | None = None,
    options: EmbeddingOptions | None = None,
    progress: ProgressCallback = silent,
    **chosen: Unpack[EmbeddingKeywords],
) -> Key:
    """Train a watermark into ``model``, in place, under a new key, and prove that it can be found. Return the key.

    ``images`` is an image set: a folder, .zip or .tar of images, or an .npz with one array of them; without it the model draws
    its own. Options are an :class:`aiao.EmbeddingOptions`, or its fields as keywords, which come first. ``progress`` is called
    at every step with an :class:`aiao.Progress`, and may raise :class:`aiao.Canceled` to stop.

    Raises :class:`aiao.EmbeddingFailed` if the watermark cannot be proved, :class:`aiao.InvalidImages`, or ``ValueError`` for
    options out of range. After an error the model is as it was before.
    """
    options = EmbeddingOptions.model_validate((options.model_dump() if options else {}) | chosen)
    if model.marked:
        raise EmbeddingFailed("the model carries a watermark already; load it again from its folder for another key")
    if images is not None and not Path(images).exists():
        raise InvalidImages(f"{images} does not exist; name a folder, .zip or .tar of images, or an .npz")
    from aiao_core.data.owner_data import draw_examples, load_examples
    from aiao_core.method import embedding
    from aiao_core.method.acceleration import accelerator

    content = model.content
    try:
        content.denoiser.to(accelerator().device)  # before it draws images of its own
        if images is None:
            examples = draw_examples(model.folder, content, options, progress)
        else:
            examples = load_examples(model.folder, content, Path(images))
        key = embedding.embed(content, generate_seed(), examples=examples, options=options, progress=progress).key
        _prove(model, key, progress)
    except BaseException:
        model.restore()
        raise
    model.marked = True
    return Key(key)


def verify(
    suspect: str | Path,
    key: Key | OwnerKey | str | Path,
    *,
    base: str | Path | None = None,
    source: str | Path | None = None,
    options: VerificationOptions | None = None,
    progress: ProgressCallback = silent,
) -> Report:
    """Test whether ``suspect`` was made with knowledge of the key or of the marked weights.

    ``suspect`` is a pipeline folder, an archive, a .safetensors, pickle or GGUF file, an adapter, or a model in a public
    repository of the Hugging Face hub, ``"hf://owner/name@revision/path"`` or the address of its page. ``key`` is a key or a
    key file. ``base`` is the model that an adapter was made for; it is tested first. ``source`` is the model before the
    watermark: a control, without which the most important one is missing. With ``options`` other than those of a verdict the
    report is exploratory.

    The same key and weights give the same numbers. Readings that rest on the source or on the key's choice of subpaths are
    reported and do not count, because nothing shows here that both are older than the key. Raises :class:`aiao.AiaoError` for
    what cannot be tested, and :class:`aiao.MissingDependency` without torch.
    """
    with _torch_installed():
        from aiao_core.verification.examine import examine_files
    if isinstance(key, str | Path):
        key = Key.load(key)
    owner_key = key.owner_key if isinstance(key, Key) else key
    base, source = (None if path is None else Path(path) for path in (base, source))
    try:
        return Report(examine_files(suspect, owner_key, base=base, source=source, options=options, progress=progress))
    except AdapterWithoutBase as error:
        raise AdapterWithoutBase(
            "the suspect is an adapter, which changes a base model; name that one with --base (in Python base=)"
        ) from error


def _prove(model: Model, key: OwnerKey, progress: ProgressCallback) -> None:
    """Prove the mark of the model as it will be saved."""
    from aiao_core.formats.pipelines import load_model, save_model
    from aiao_core.method.acceleration import accelerator
    from aiao_core.proof import prove

    device = accelerator().device

    def load(folder: Path) -> "DiffusionModel":
        content = load_model(folder)
        content.denoiser.to(device)
        return content

    with tempfile.TemporaryDirectory(prefix="aiao-") as scratch:
        marked = Path(scratch) / "marked"
        save_model(model.content.denoiser, model.folder, marked)
        prove(lambda: load(marked), key, source=lambda: load(model.folder).denoiser, progress=progress)


@contextmanager
def _torch_installed() -> Iterator[None]:
    """Name the command that installs what an import in the block lacks."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"this needs {error.name}, which is not installed; install it with: pip install 'aiao[torch]'"
        ) from error

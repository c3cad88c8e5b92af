"""``aiao models``: register, renew, list, show, download, retire."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from aiao._cli.display import err, follow, out, print_json, print_table, transfer
from aiao._client import key_files as keyfile
from aiao._client.api import Client
from aiao._client.documents import RegisteredModel, Registration
from aiao._client.errors import ClientError
from aiao._client.output_files import check_output
from aiao_core.key import BINDING_VERSION
from aiao_core.options import EmbeddingOptions

app = typer.Typer(help="Register models and get their watermarked checkpoints.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, without progress.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file, but never a key file.")]
Custody = Literal["service", "owner"]
ModelId = Annotated[str, typer.Argument(help="The model's identifier, mdl_….")]
Wait = Annotated[bool, typer.Option(help="Follow the embedding to its end.")]


@app.command()
def register(
    path: Annotated[
        Path, typer.Argument(help="Diffusers pipeline folder, a .zip or .tar of one, or a single .safetensors or .ckpt file.")
    ],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    key_file: Annotated[Path | None, typer.Option(help="File for the secret key. Default: NAME.key.json.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Image set to embed with: a folder, .zip or .npz. Default: samples of the model.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Embedding option, such as steps=3000 or precision=bf16. Repeatable.")
    ] = None,
    custody: Annotated[
        Custody,
        typer.Option(
            help="owner: the service forgets the key after the embedding. Without your file nobody can prove anything."
        ),
    ] = "service",
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Upload a model, embed a watermark in it, and save the secret key to a file that only you can read."""
    target = key_file or _key_file_of(name)
    keyfile.check_free(target)
    options = _options(option)
    with Client() as client:
        with transfer("upload", quiet=json) as moved:
            registration = client.models.register(
                path, name=name, images=images, options=options, custody=custody, progress=moved
            )
        _embed(client, registration, target, wait=wait, json=json)


@app.command()
def renew(
    model: ModelId,
    name: Annotated[str | None, typer.Option(help="Name of the new model. Default: that of the old one.")] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(help="File for the new secret key. Default: NAME.key.json, or without --name OLDNAME.renewed.key.json."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Embedding option in place of the old model's, such as steps=3000. Repeatable.")
    ] = None,
    custody: Annotated[
        Custody | None, typer.Option(help="Who keeps the new key, as in register. Default: as with the old one.")
    ] = None,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Embed a new key in the source of a registered model, as a new model: the old key can be read out, or was opened.

    The old model keeps its key, which alone finds what was made from its checkpoint.
    """
    options = _options(option)
    target = key_file or (_key_file_of(name) if name else None)
    if target:
        keyfile.check_free(target)  # here, so that no service is needed to refuse it
    with Client() as client:
        if target is None:
            target = _key_file_of(f"{client.models.get(model).name}.renewed")
            keyfile.check_free(target)
        registration = client.models.renew(model, name=name, options=options, custody=custody)
        _embed(client, registration, target, wait=wait, json=json)


def _key_file_of(name: str) -> Path:
    return Path(f"{name}.key.json".replace("/", "-"))


def _embed(client: Client, registration: Registration, key_file: Path, *, wait: bool, json: bool) -> None:
    """Save the secret of a model under embedding, follow the embedding, and complete the key file."""
    if registration.secret_key is None:
        raise ClientError("the service answered without the secret key; register or renew the model again")
    # At once: whatever happens now, the secret is not lost.
    keyfile.save_secret(key_file, registration.secret_key, registration.model.id)
    err.print(f"Secret key saved to {key_file}; keep a copy in a safe place.")
    if not wait:
        print_json(registration.model) if json else out.print(registration.model.id, registration.job.id)
        return
    try:
        with follow("embed", quiet=json) as show:
            client.jobs.wait(registration, progress=show)
    except KeyboardInterrupt:
        err.print(f"The embedding goes on. Follow it: aiao jobs watch {registration.job.id}")
        err.print(f"When it is done: aiao key complete {key_file}")
        raise
    keyfile.complete(key_file, client.models.public_key)
    model = client.models.get(registration.model.id)
    if json:
        print_json(model)
        return
    out.print(f"{model.id} is ready. Publish the watermarked checkpoint:")
    out.print(f"  aiao models download {model.id} --to marked.zip")
    if model.renews:
        out.print(f"Keep {model.renews} and its key: they alone find what was made from its checkpoint.")


@app.command("list")
def list_models(json: Json = False) -> None:
    """List all models, newest first."""
    with Client() as client:
        models = list(client.models.list())
    if json:
        print_json([model.model_dump(mode="json") for model in models])
    else:
        renewed = {model.renews for model in models if model.status in ("embedding", "ready")}
        rows = [
            [model.id, model.name, model.status, f"{model.created_at:%Y-%m-%d %H:%M}", _version_of(model, renewed)]
            for model in models
        ]
        print_table(["model", "name", "status", "created", "key version"], rows)


def _version_of(model: RegisteredModel, renewed: set[str | None]) -> str:
    """Return the version of a model's key, and what to do about it; ``renewed`` are the models that have been renewed."""
    if model.key_version is None:
        return ""
    old = model.key_version < BINDING_VERSION and model.status != "retired"
    advice = (", renewed" if model.id in renewed else ", renew it") if old else ""
    return f"{model.key_version}{advice}"


@app.command()
def show(model: ModelId, json: Json = False) -> None:
    """Show a model: status, commitment, checkpoint."""
    with Client() as client:
        found = client.models.get(model)
    if json:
        print_json(found)
        return
    checkpoint = f"{found.checkpoint.size} bytes, sha256 {found.checkpoint.sha256}" if found.checkpoint else "none yet"
    version = "none yet" if found.key_version is None else str(found.key_version)
    if found.key_version and found.key_version < BINDING_VERSION:
        version += f": its signs can be read out of published weights; aiao models renew {found.id}"
    rows = [
        ["name", found.name],
        ["status", found.status],
        ["key kept by", found.custody],
        ["commitment", found.commitment],
        ["key version", version],
        ["checkpoint", checkpoint],
        ["job", found.job_id],
    ]
    if found.renews:
        rows.append(["renews", found.renews])
    if found.error:
        rows.append(["error", found.error.detail])
    print_table(["model", found.id], rows)


@app.command()
def download(
    model: ModelId,
    to: Annotated[Path | None, typer.Option(help="File to write. Default: MODEL.zip.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Save the watermarked checkpoint, the one to publish."""
    target = to or Path(f"{model}.zip")
    check_output(target, force=force)  # here, so that no service is needed to refuse it
    with Client() as client, transfer("download", quiet=json) as moved:
        client.models.download(model, target, overwrite=force, progress=moved)
    print_json({"path": str(target)}) if json else out.print(f"Saved {target}")


@app.command()
def retire(model: ModelId) -> None:
    """Refuse further verifications against a model. The service keeps its key and reports."""
    with Client() as client:
        client.models.retire(model)
    out.print(f"{model} is retired.")


def _options(pairs: list[str] | None) -> dict[str, Any]:
    """Read ``name=value`` pairs, before anything is uploaded."""
    options: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ClientError(f"--option {pair} is not NAME=VALUE, such as steps=3000")
        options[name] = value
    try:
        return EmbeddingOptions.model_validate(options).model_dump(include=set(options))
    except ValidationError as error:
        first = error.errors()[0]
        raise ClientError(f"--option {first['loc'][0]}: {first['msg']}") from error

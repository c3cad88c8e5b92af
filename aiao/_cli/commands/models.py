"""``aiao models``: register, list, show, download, retire."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from aiao._cli.display import err, follow, out, print_json, print_table, transfer
from aiao._client import key_files as keyfile
from aiao._client.api import Client
from aiao._client.errors import ClientError
from aiao._client.output_files import check_output
from aiao_core.options import EmbeddingOptions

app = typer.Typer(help="Register models and get their watermarked checkpoints.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, without progress.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file, but never a key file.")]
Custody = Literal["service", "owner"]
ModelId = Annotated[str, typer.Argument(help="The model's identifier, mdl_….")]


@app.command()
def register(
    path: Annotated[Path, typer.Argument(help="Diffusers pipeline folder, or a .zip or .tar of one.")],
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
    wait: Annotated[bool, typer.Option(help="Follow the embedding to its end.")] = True,
    json: Json = False,
) -> None:
    """Upload a model, embed a watermark in it, and save the secret key to a file that only you can read."""
    target = key_file or Path(f"{name}.key.json".replace("/", "-"))
    keyfile.check_free(target)
    options = _options(option)
    with Client() as client:
        with transfer("upload", quiet=json) as moved:
            registration = client.models.register(
                path, name=name, images=images, options=options, custody=custody, progress=moved
            )
        if registration.secret_key is None:
            raise ClientError("the service answered without the secret key; register the model again")
        # At once: whatever happens now, the secret is not lost.
        keyfile.save_secret(target, registration.secret_key, registration.model.id)
        err.print(f"Secret key saved to {target}; keep a copy in a safe place.")
        if not wait:
            print_json(registration.model) if json else out.print(registration.model.id, registration.job.id)
            return
        try:
            with follow("embed", quiet=json) as show:
                client.jobs.wait(registration, progress=show)
        except KeyboardInterrupt:
            err.print(f"The embedding goes on. Follow it: aiao jobs watch {registration.job.id}")
            err.print(f"When it is done: aiao key complete {target}")
            raise
        keyfile.complete(target, client.models.public_key)
        model = client.models.get(registration.model.id)
    if json:
        print_json(model)
    else:
        out.print(f"{model.id} is ready. Publish the watermarked checkpoint:")
        out.print(f"  aiao models download {model.id} --to marked.zip")


@app.command("list")
def list_models(json: Json = False) -> None:
    """List all models, newest first."""
    with Client() as client:
        models = list(client.models.list())
    if json:
        print_json([model.model_dump(mode="json") for model in models])
    else:
        rows = [[model.id, model.name, model.status, f"{model.created_at:%Y-%m-%d %H:%M}"] for model in models]
        print_table(["model", "name", "status", "created"], rows)


@app.command()
def show(model: ModelId, json: Json = False) -> None:
    """Show a model: status, commitment, checkpoint."""
    with Client() as client:
        found = client.models.get(model)
    if json:
        print_json(found)
        return
    checkpoint = f"{found.checkpoint.size} bytes, sha256 {found.checkpoint.sha256}" if found.checkpoint else "none yet"
    rows = [
        ["name", found.name],
        ["status", found.status],
        ["key kept by", found.custody],
        ["commitment", found.commitment],
        ["checkpoint", checkpoint],
        ["job", found.job_id],
    ]
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

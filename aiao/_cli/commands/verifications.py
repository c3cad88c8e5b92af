"""``aiao verify``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aiao._cli.commands.models import Force, Json
from aiao._cli.display import err, follow, out, print_verdict, stages, transfer
from aiao._cli.report_files import save_report
from aiao._client import key_files as keyfile
from aiao._client.api import Client
from aiao._client.errors import ClientError
from aiao._client.report_files import check_report_file
from aiao_core.formats.hub import is_reference, parse, without_scheme
from aiao_core.options import VerificationOptions

if TYPE_CHECKING:
    from aiao_core.reports.summary import Summary
    from aiao_core.reports.verification import Report

STATUS = {"match": 0, "no-match": 1}
NO_VERDICT = 3
"""Exit status if nothing is said of the suspect: its base carries the mark, a control voids the test, or it is exploratory."""


def verify(
    suspect: Annotated[
        str,
        typer.Argument(
            help="Pipeline folder, .zip, .tar, .safetensors, .ckpt, .pt, .gguf, or on the Hugging Face hub: "
            "hf://OWNER/NAME@REVISION/FILE, the address of a page, or OWNER/NAME if no such file is here."
        ),
    ],
    model: Annotated[str | None, typer.Option(help="Registered model, mdl_….")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Test on this machine, without any service.")] = False,
    key: Annotated[
        Path | None, typer.Option(help="Owner's key file: for --offline, or if the service does not keep the model's key.")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(help="Model that a LoRA was made for: tested first, and needed unless it lies beside the LoRA."),
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="With --offline: the model before the watermark, a control that must not match.")
    ] = None,
    report_file: Annotated[Path | None, typer.Option("--report", help="Save the report: .html or .json.")] = None,
    force: Force = False,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**32 - 1, help="With --offline: explore with the draws of this seed. The result is not a verdict."
        ),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="With --offline: explore with this number of draws.")
    ] = None,
    decoys: Annotated[
        int | None, typer.Option(min=0, max=10_000, help="With --offline: explore with this number of decoy keys.")
    ] = None,
    json: Json = False,
) -> None:
    """Test whether a checkpoint was made with knowledge of a registered model's key or marked weights.

    Exit status: 0 match, 1 no match, 2 error, 3 no verdict.

    No verdict: the base carries the mark, a control voids the test, or the test is exploratory.
    """
    chosen = {"seed": seed, "draws": draws, "decoys": decoys}
    options = {name: value for name, value in chosen.items() if value is not None}
    if report_file:
        check_report_file(report_file, force=force)
    suspect = _suspect(suspect, quiet=json)
    result: Report | Summary
    if offline:
        if key is None or model is not None:
            raise ClientError("an offline test needs the owner's key and no model: aiao verify --offline --key KEYFILE SUSPECT")
        result = _offline(suspect, base, source, key, options, quiet=json)
    else:
        if source is not None:
            raise ClientError("a service has the registered source; --source is for --offline")
        if model is None:
            raise ClientError("name the registered model: aiao verify --model mdl_… SUSPECT, or test with --offline --key")
        if reasons := VerificationOptions.model_validate(options).departures():
            raise ClientError(f"a service gives verdicts alone, and to explore there is --offline: {'; '.join(reasons)}")
        result = _by_service(suspect, base, model, key, options, quiet=json)
    if json:
        out.print(result.to_json(), end="")
    else:
        print_verdict(result)
        if offline and source is None:
            err.print("Name the model before the watermark with --source: the key is read against it, or else loses many bits.")
    if report_file:
        _save(result, report_file, force=force)
    raise typer.Exit(STATUS.get(result.verdict, NO_VERDICT))


def _suspect(text: str, *, quiet: bool) -> str:
    """Return the path as it is, or the reference to the hub that is meant, and say so if no scheme did. Check a reference."""
    if is_reference(text):
        return str(parse(text))
    if os.path.lexists(text) or (reference := without_scheme(text)) is None:
        return text
    if Path(text).parent.is_dir():
        raise ClientError(f"{text} does not exist; if a repository of the Hugging Face hub is meant, write {reference}")
    if not quiet:
        err.print(f"There is no file {text} here; {reference} on the Hugging Face hub is tested.")
    return str(reference)


def _by_service(
    suspect: str, base: Path | None, model: str, key: Path | None, options: dict[str, Any], *, quiet: bool
) -> "Report | Summary":
    secret = keyfile.secret_of(key)
    with Client() as client:
        with transfer("upload", quiet=quiet) as moved:
            submission = client.verifications.create(
                model, suspect, base=base, secret_key=secret, options=options, progress=moved
            )
        with follow("verify", quiet=quiet) as show:
            client.jobs.wait(submission, progress=show)
        if not quiet:
            out.print(f"Verification {submission.verification.id}")
        return read(client.verifications.report(submission.verification.id))


def read(text: str) -> "Report | Summary":
    from aiao_core.reports.summary import read_report  # here: it is slow to load, and no other command should wait for it

    return read_report(text)


def _offline(
    suspect: str, base: Path | None, source: Path | None, key_file: Path, options: dict[str, Any], *, quiet: bool
) -> "Report":
    from aiao import _library  # here: it is slow to load, and no other command should wait for it

    chosen = VerificationOptions.model_validate(options)
    with stages("verify", quiet=quiet) as show:
        return _library.verify(suspect, key_file, base=base, source=source, options=chosen, progress=show).details


def _save(result: "Report | Summary", file: Path, *, force: bool) -> None:
    from aiao_core.reports.verification import Report
    from aiao_core.reports.verification_page import summary_to_html, to_html

    page = (lambda: to_html(result)) if isinstance(result, Report) else (lambda: summary_to_html(result))
    save_report(file, page, result.to_json, force=force)

"""``aiao audit``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aiao._cli.commands.models import Force, Json, ModelId
from aiao._cli.display import follow, out, print_table, transfer
from aiao._cli.report_files import save_report
from aiao._client import key_files as keyfile
from aiao._client.api import Client
from aiao._client.errors import ClientError
from aiao._client.report_files import check_report_file
from aiao_core.audit_options import ATTACKS, Preset

if TYPE_CHECKING:
    from aiao_core.reports.audit import AuditReport

WITHSTOOD, ENDED = 0, 1


def audit(
    model: ModelId,
    preset: Annotated[Preset | None, typer.Option(help="Set of attacks: quick (default), or full for all of them.")] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="Attack to try instead of a preset, such as lora-4-100. Repeatable.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Images that the attacks train on: a folder, .zip or .npz. Default: samples of the model."),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Owner's key file, if the service does not keep the model's key.")] = None,
    report_file: Annotated[Path | None, typer.Option("--report", help="Save the report: .html or .json.")] = None,
    force: Force = False,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of attacks and tests. Default: 0.")] = None,
    json: Json = False,
) -> None:
    """Attack a registered model, and show which attacks its watermark withstands.

    Exit status: 0 every useful model is still a match, 1 some attack ends the watermark, 2 error.
    """
    if attack and preset:
        raise ClientError("choose the attacks by either --preset or --attack")
    if unknown := [name for name in attack or [] if name not in ATTACKS]:
        raise ClientError(f"unknown attack {unknown[0]}; choose from {', '.join(ATTACKS)}")
    if report_file:
        check_report_file(report_file, force=force)
    options = {} if seed is None else {"seed": seed}
    chosen: dict[str, Any] = {"attacks": attack} if attack else {"preset": preset or "quick"}
    secret = keyfile.secret_of(key)
    with Client() as client:
        with transfer("upload", quiet=json) as moved:
            start = client.audits.create(model, images=images, secret_key=secret, options=options, progress=moved, **chosen)
        if not json:
            out.print(f"Audit {start.audit.id}")
        with follow("audit", quiet=json, latest=True) as show:
            client.jobs.wait(start, progress=show)
        result = read(client.audits.report(start.audit.id))
    if json:
        out.print(result.to_json(), end="")
    else:
        print_audit(result)
    if report_file:
        _save(result, report_file, force=force)
    raise typer.Exit(ENDED if result.summary.ended_by else WITHSTOOD)


def read(text: str) -> "AuditReport":
    from aiao_core.reports.audit import AuditReport  # here: it is slow to load, and no other command should wait for it

    return AuditReport.from_json(text)


def print_audit(report: "AuditReport") -> None:
    """Print one line for each attack, and the result of all."""
    from aiao_core.reports.words import OLD_KEY  # here: it is slow to load, and no other command should wait for it

    rows = []
    for attack in report.attacks:
        row = [attack.id, attack.outcome]
        if found := attack.measured:
            figures = (f"{found.test.log10_p:.1f}", f"{found.vs_rate.value:.3f}", f"{found.rs_rate.value:.3f}")
            row += [*figures, f"{found.quality_loss:+.1%}"]
        else:
            row += ["", "", "", attack.reason or ""]
        rows.append(row)
    print_table(["attack", "outcome", "log10 p", "VS-rate", "RS-rate", "quality loss"], rows)
    summary = report.summary
    useful = len(summary.withstood) + len(summary.ended_by)
    if summary.ended_by:
        out.print(f"ENDED: the watermark does not withstand {', '.join(summary.ended_by)}", style="bold red")
    else:
        out.print(
            f"WITHSTOOD: {useful} of {useful} attacks that leave the model useful do not end the watermark", style="bold green"
        )
    if summary.ruined:
        out.print(f"{len(summary.ruined)} ruined the model: quality loss of {report.max_quality_loss:.0%} or more")
    if not report.bound:
        out.print(f"the key is from before version 3: {OLD_KEY}", style="yellow")


def _save(result: "AuditReport", file: Path, *, force: bool) -> None:
    from aiao_core.reports.audit_page import to_html

    save_report(file, lambda: to_html(result), result.to_json, force=force)

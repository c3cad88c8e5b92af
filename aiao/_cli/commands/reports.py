"""``aiao report``."""

from pathlib import Path
from typing import Annotated

import typer

from aiao._cli.commands import audits, verifications
from aiao._cli.commands.models import Force, Json
from aiao._cli.display import out, print_verdict
from aiao._cli.report_files import save_report
from aiao._client.api import Client
from aiao._client.audits import Audits
from aiao._client.report_files import check_report_file
from aiao._client.verifications import Verifications


def report(
    subject: Annotated[str, typer.Argument(help="Identifier of the verification or audit, ver_… or aud_….")],
    to: Annotated[Path | None, typer.Option(help="Save the report: .html or .json.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Show or save the report of a finished verification or audit."""
    if to:
        check_report_file(to, force=force)
    audit = subject.startswith("aud_")
    with Client() as client:
        reports: Audits | Verifications = client.audits if audit else client.verifications
        text = reports.report(subject)
        if to:
            save_report(to, lambda: reports.report_html(subject), lambda: text, force=force)
    if json:
        out.print(text, end="")
    elif to is None and audit:
        audits.print_audit(audits.read(text))
    elif to is None:
        print_verdict(verifications.read(text))

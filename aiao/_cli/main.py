"""The ``aiao`` command line."""

import sys
import traceback
from typing import Annotated

import typer

from aiao._cli.commands import artifacts, audits, doctor, jobs, keys, models, reports, system, tokens, verifications, webhooks
from aiao._cli.display import err, out
from aiao._client.errors import ClientError
from aiao_core import __version__
from aiao_core.errors import AiaoError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        out.print(__version__)
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")]


@app.callback()
def _options(version: Version = False) -> None:
    """Watermark a diffusion model, and prove later whether a checkpoint was made from it or with its key."""


app.command()(system.up)
app.command()(system.demo)
app.command()(doctor.doctor)
app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(system.admin)
app.add_typer(models.app, name="models")
app.command()(verifications.verify)
app.command()(audits.audit)
app.command()(reports.report)
app.add_typer(artifacts.app, name="artifacts")
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="key")
app.add_typer(tokens.app, name="tokens")
app.add_typer(webhooks.app, name="webhooks")


def main() -> None:
    """Run a command.

    Exit status: 0 done (``verify``: match; ``audit``: withstood), 1 ``verify``: no match, ``audit``: ended, 2 error, 3
    ``verify``: no verdict, 130 interrupted. ``doctor``: 1 if something is to be fixed.
    """
    try:
        app(prog_name="aiao")
    except (ClientError, AiaoError, OSError) as error:
        err.print("error:", str(error))
        sys.exit(2)
    except Exception:  # a mistake in this program; Python's own exit status for it would be that of "no match"
        traceback.print_exc()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

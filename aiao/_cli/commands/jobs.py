"""``aiao jobs``: list, watch, cancel."""

from typing import Annotated

import typer

from aiao._cli.commands.models import Json
from aiao._cli.display import follow, out, print_json, print_table
from aiao._client.api import Client
from aiao._client.documents import Job

app = typer.Typer(help="Follow embeddings, verifications and audits.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="The job's identifier, job_….")]


@app.command("list")
def list_jobs(json: Json = False) -> None:
    """List all jobs, newest first."""
    with Client() as client:
        jobs = list(client.jobs.list())
    if json:
        print_json([job.model_dump(mode="json") for job in jobs])
    else:
        print_table(["job", "kind", "state", "of", "progress or result"], [_row(job) for job in jobs])


@app.command()
def watch(job: JobId, json: Json = False) -> None:
    """Follow a job to its end. With --json, print each change as a line."""
    with Client() as client:
        if json:
            client.jobs.wait(job, progress=lambda latest: print(latest.model_dump_json(), flush=True))  # noqa: T201
            return
        with follow(job) as show:
            finished = client.jobs.wait(job, progress=show)
    out.print(f"{job} has {finished.state}: {finished.result}")


@app.command()
def cancel(job: JobId, json: Json = False) -> None:
    """Cancel a job. A running job stops at its next step."""
    with Client() as client:
        canceled = client.jobs.cancel(job)
    if json:
        print_json(canceled)
    else:
        out.print(f"{job} is {canceled.state}" + ("." if canceled.finished else " and stops at its next step."))


def _row(job: Job) -> list[str]:
    progress = f"{job.progress.stage} {job.progress.step}/{job.progress.total}" if job.progress else ""
    return [job.id, job.kind, job.state, job.subject_id, job.error.detail if job.error else job.result or progress]

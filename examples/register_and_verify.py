"""Register a model with a running service, save the marked checkpoint, and test it and other suspects.

    aiao up                                                                   # in another terminal
    python examples/register_and_verify.py my-pipeline/ suspect.safetensors

The client finds the service by the file that `aiao up` wrote, or by AIAO_URL and AIAO_TOKEN.
"""

import argparse
import json
import os
from pathlib import Path

import aiao


def save_secret(secret: str, file: Path) -> None:
    """Save the secret in a new file that only this user can read: the service shows it once."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(secret + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Register a model, save it with its watermark, and test suspects.")
    parser.add_argument("model", type=Path, help="diffusers pipeline folder, or an archive of one")
    parser.add_argument("suspects", nargs="*", help="files, folders or hf://owner/name@revision/file")
    parser.add_argument("--name", default="example", help="name of the model and of the files")
    parser.add_argument("--options", type=json.loads, default={}, help='embedding options as JSON, such as {"steps": 400}')
    arguments = parser.parse_args()

    with aiao.Client() as client:
        registration = client.models.register(arguments.model, name=arguments.name, options=arguments.options)
        save_secret(registration.secret_key, Path(f"{arguments.name}.secret"))
        client.jobs.wait(registration, progress=show)
        marked = client.models.download(registration.model.id, f"{arguments.name}-marked.zip")
        print(f"Publish {marked}; keep {arguments.name}.secret.")

        for number, suspect in enumerate([marked, *arguments.suspects]):
            submission = client.verifications.create(registration.model.id, suspect)
            client.jobs.wait(submission, progress=show)
            found = client.verifications.get(submission.verification.id)
            report = Path(f"{arguments.name}-report-{number}.html")
            report.write_text(client.verifications.report_html(found.id), "utf-8")
            print(f"{suspect}: {found.verdict}, log10 p {found.log10_p:.1f}; see {report}")


def show(job: aiao.Job) -> None:
    """Print where a job stands, in one line of a terminal."""
    if job.progress:
        print(f"\r{job.progress.stage}: {job.progress.step} of {job.progress.total}\033[K", end="", flush=True)
    if job.finished:
        print()


if __name__ == "__main__":
    main()

"""The tasks. Torch is imported in the task's process only, so that the parent stays small and forks cleanly."""

from worker.app import app
from worker.running import run


@app.task(name="worker.embed")
def embed(job_id: str) -> None:
    """Embed a registered model's watermark."""
    from worker.embed import embed_model

    run(job_id, embed_model)


@app.task(name="worker.audit")
def audit(job_id: str) -> None:
    """Attack a registered model and test what is left."""
    from worker.audit import audit_model

    run(job_id, audit_model)


@app.task(name="worker.verify")
def verify(job_id: str) -> None:
    """Test a suspect."""
    from worker.verify import verify_suspect

    run(job_id, verify_suspect)

"""The training checkpoint of a running embedding, in the storage that every worker reaches."""

from pathlib import Path

from service.jobs.job_ended import training_state_key
from service.kit.storage import Storage


class TrainingState:
    """An :class:`aiao_core.method.resume.CheckpointStore`. It holds weights and the public key, never the secret.

    The end of the job deletes it.
    """

    def __init__(self, storage: Storage, job_id: str, scratch: Path) -> None:
        self.storage, self.key, self.scratch = storage, training_state_key(job_id), scratch

    def load(self) -> Path | None:
        path = self.scratch / "resume.pt"
        try:
            self.storage.download(self.key, path)
        except FileNotFoundError:
            return None
        return path

    def save(self, file: Path) -> None:
        self.storage.put(self.key, file)

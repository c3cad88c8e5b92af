"""Subjects: the rows that jobs work on."""

from typing import Any

from sqlalchemy.orm import Session


class Subject:
    """A table whose rows jobs work on. A job's end calls it, in the same transaction."""

    @classmethod
    def note_failure(cls, session: Session, subject_id: str, error: dict[str, Any]) -> None:
        """Note that a row's job failed or was canceled, if the job's own state does not say enough."""

    @classmethod
    def announcement(cls, session: Session, subject_id: str) -> dict[str, Any]:
        """Return what a webhook hears of a row, beside its job. It holds no figures."""
        return {}

"""A renewed model and the one that it renews: each key finds its own checkpoint, and not the other's."""

import pytest

from service.models.schemas import RenewalIn
from service.models.service import renew
from service.tables.verifications import Verification
from tests.support.tiny import TENANT, finish, make_old, ready, report_of, row, save, submitted
from tests.support.tiny_models import make_marked
from worker import running
from worker.verify import verify_suspect

pytestmark = pytest.mark.xdist_group("worker")


def test_a_checkpoint_from_before_a_renewal_is_found_by_the_old_key_alone(context, tmp_path, run_folder):
    files, marked = make_old(tmp_path), make_marked(run_folder)  # of the same source
    save(marked.model, tmp_path / "new")
    old = ready(context, files)
    with context.database.session() as session:
        new, _, _ = renew(session, context, TENANT, old.id, RenewalIn())
    finish(context, new, tmp_path / "new.zip", marked.key)
    found = {}
    for model in (old, new):
        for suspect in ("marked.zip", "new.zip"):
            verification = submitted(context, model, tmp_path / suspect)
            running.run(verification.job_id, verify_suspect)
            done = row(context, Verification, verification.id)
            report = report_of(context, done)
            assert done.key_version == report.key_version
            found[model.id, suspect] = (report.key_version, report.verdict)
    assert found == {
        (old.id, "marked.zip"): (2, "match"),
        (old.id, "new.zip"): (2, "no-match"),
        (new.id, "marked.zip"): (3, "no-match"),
        (new.id, "new.zip"): (3, "match"),
    }

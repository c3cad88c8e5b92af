"""A renewed model and the one that it renews: neither key finds the other's checkpoint."""

import pytest

from service.models.schemas import RenewalIn
from service.models.service import renew
from service.tables.verifications import Verification
from tests.support.attempts import run
from tests.support.tiny import TENANT, finish, make_old, ready, report_of, row, save, submitted
from tests.support.tiny_models import make_marked
from worker.verify import verify_suspect

pytestmark = pytest.mark.xdist_group("worker")


def test_the_old_key_does_not_find_the_new_checkpoint_nor_the_new_key_the_old_one(context, tmp_path, run_folder):
    files, marked = make_old(tmp_path), make_marked(run_folder)  # of the same source
    save(marked.model, tmp_path / "new")
    old = ready(context, files)
    with context.database.session() as session:
        new, _, _ = renew(session, context, TENANT, old.id, RenewalIn())
    finish(context, new, tmp_path / "new.zip", marked.key)
    for model, suspect, key_version in ((old, "new.zip", 2), (new, "marked.zip", 3)):
        verification = submitted(context, model, tmp_path / suspect)
        run(verification.job_id, verify_suspect)
        done = row(context, Verification, verification.id)
        assert (done.verdict, done.key_version, report_of(context, done).key_version) == ("no-match", key_version, key_version)

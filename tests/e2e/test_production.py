"""The whole path on PostgreSQL and Redis, with processes as a company runs them."""

from aiao_core.report import Report


def test_smoke(owner, registered, marked):
    submission = owner.verifications.create(registered.model.id, marked)
    submission.job.wait()
    report = Report.from_json(owner.verifications.report(submission.verification.id))
    print(report.test, report.vs_rate, report.untriggered)
    assert report.verdict == "match"

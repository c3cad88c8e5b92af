import html
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiao_core.errors import InvalidReport
from aiao_core.protocol import LIMIT_LOG10_P
from aiao_core.reports.audit import FORGING, AttackResult, AuditReport, Measured, Summary, outcome_of
from aiao_core.reports.audit_page import to_html
from aiao_core.reports.parts import BitTest
from aiao_core.reports.words import OLD_KEY
from tests.support.places import GOLDEN


def golden() -> AuditReport:
    return AuditReport.from_json((GOLDEN / "audit-v1.json").read_bytes())


@pytest.fixture
def report() -> AuditReport:
    return golden()


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_golden_reports_of_every_version_are_read(version):
    text = (GOLDEN / f"audit-v{version}.json").read_text()
    report = AuditReport.from_json(text)
    assert report.to_json() == text
    assert report.summary == Summary(
        withstood=("full-fine-tuning-200", "quantisation-8", "channel-permutation"),
        ended_by=("lora-4-100",),
        ruined=("magnitude-pruning-70",),
        no_model=("weight-shifting",),
    )


@pytest.mark.parametrize(("version", "readings", "key_version"), [(5, 8, None), (6, 2, 3)])
def test_the_golden_reports_of_tests_under_the_rules_are_read(version, readings, key_version):
    text = (GOLDEN / f"audit-v{version}.json").read_text()
    report = AuditReport.from_json(text)
    assert report.to_json() == text
    assert (report.max_log10_p, report.key_version) == (LIMIT_LOG10_P, key_version)
    assert f"the best of {readings} readings" in to_html(report)


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_an_audit_of_an_older_key_says_that_it_can_be_read_out(version):
    page = to_html(AuditReport.from_json((GOLDEN / f"audit-v{version}.json").read_bytes()))
    assert (OLD_KEY in " ".join(html.unescape(page).split())) == (version <= 5)


@pytest.mark.parametrize("change", ["no version of the key", "more readings than there are", "an older version"])
def test_an_altered_audit_of_a_bound_key_is_refused(change):
    document = json.loads((GOLDEN / "audit-v6.json").read_bytes())
    match change:
        case "no version of the key":
            del document["key_version"]
        case "more readings than there are":
            test = document["published"]["test"]
            document["published"]["test"] = json.loads(BitTest.of(test["matches"], test["bits"], 8).model_dump_json())
        case "an older version":
            document["version"] = 5
    with pytest.raises(InvalidReport):
        AuditReport.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "change",
    ["a laxer limit", "readings that are not counted", "an older version"],
)
def test_an_altered_report_of_todays_test_is_refused(change):
    document = json.loads((GOLDEN / "audit-v5.json").read_bytes())
    match change:
        case "a laxer limit":
            document["max_log10_p"] = -9.0
        case "readings that are not counted":
            test = document["published"]["test"]
            document["published"]["test"] = json.loads(BitTest.of(test["matches"], test["bits"], 2).model_dump_json())
        case "an older version":
            document["version"] = 4
    with pytest.raises(InvalidReport):
        AuditReport.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "change",
    ["version", "format", "unknown field", "missing field", "matches", "verdict", "published", "quality loss", "loss",
     "no loss", "outcome", "summary", "fewer attacks", "reason", "no reason", "threshold", "limit", "nan",
     "one reading of two", "an older version"],
)  # fmt: skip
def test_an_altered_report_is_refused(change):
    document = json.loads((GOLDEN / "audit-v4.json").read_bytes())
    attacks = {attack["id"]: attack for attack in document["attacks"]}
    withstood, ended, no_model = (attacks[name] for name in ("full-fine-tuning-200", "lora-4-100", "weight-shifting"))
    match change:
        case "version":
            document["version"] = 7
        case "format":
            document["format"] = "aiao.report"
        case "unknown field":
            document["secret"] = "hello"
        case "missing field":
            del document["seed"]
        case "matches":
            withstood["measured"]["test"]["matches"] -= 1
        case "verdict":
            ended["measured"]["verdict"] = "match"
            ended["outcome"] = "withstood"
        case "published":
            document["published"]["verdict"] = "no-match"
        case "quality loss":
            ended["measured"]["quality_loss"] = 0.3
            ended["outcome"] = "ruined"
        case "loss":
            document["published"]["loss"] *= 1.01
        case "no loss":
            document["published"]["loss"] = 0
        case "outcome":
            ended["outcome"] = "ruined"
        case "summary":
            document["summary"]["withstood"] += document["summary"]["ended_by"]
            document["summary"]["ended_by"] = []
        case "fewer attacks":
            document["attacks"].remove(ended)
        case "reason":
            withstood["reason"] = "it was not possible"
        case "no reason":
            no_model["reason"] = None
        case "threshold":
            document["max_log10_p"] = -0.5
        case "limit":
            document["max_quality_loss"] = 10.0
        case "nan":
            document["tau"] = float("nan")
        case "one reading of two":
            test = withstood["measured"]["test"]
            withstood["measured"]["test"] = json.loads(BitTest.of(test["matches"], test["bits"]).model_dump_json())
        case "an older version":
            document["version"] = 3
    with pytest.raises(InvalidReport):
        AuditReport.from_json(json.dumps(document))


@given(st.text(max_size=200) | st.binary(max_size=200) | st.just("[" * 100_000))
def test_any_text_is_a_report_or_an_invalid_one(text):
    with pytest.raises(InvalidReport):
        AuditReport.from_json(text)


def measured(matches: int, bits: int, quality: float) -> Measured:
    published, test = golden().published, BitTest.of(matches, bits)
    verdict = "match" if test.log10_p <= golden().max_log10_p else "no-match"
    loss = published.loss * (1 + quality)
    return published.model_copy(update={"test": test, "verdict": verdict, "loss": loss, "quality_loss": quality})


@pytest.mark.parametrize(
    ("matches", "quality", "outcome"),
    [
        (400, 0.0, "withstood"),
        (400, -0.5, "withstood"),
        (400, 0.199, "withstood"),
        (400, 0.2, "ruined"),
        (200, 0.199, "ended"),
        (200, 0.2, "ruined"),
    ],
)
def test_the_outcome_follows_from_match_and_quality(matches, quality, outcome):
    assert outcome_of(measured(matches, 400, quality), 0.2) == outcome
    of_a_forgery = {"withstood": "ended", "ended": "withstood"}.get(outcome, outcome)
    assert outcome_of(measured(matches, 400, quality), 0.2, FORGING) == of_a_forgery


def test_without_a_model_there_is_no_outcome_of_a_test():
    assert outcome_of(None, 0.2) == "no-model"


def with_attacks(report: AuditReport, attacks: tuple[AttackResult, ...]) -> AuditReport:
    return report.model_copy(update={"attacks": attacks, "summary": Summary.of(attacks)})


def test_the_page_is_self_contained_and_says_what_ends_the_watermark(report):
    page = to_html(report)
    assert "does not withstand 1 of 4 attacks" in page
    assert "by: LoRA of rank 4, 100 steps." in page
    assert page.count("<svg") == 1
    assert "<script" not in page
    for outside in ("http://", "https://", "src=", "@import", "url("):
        assert outside not in page
    assert all(attack.name in page for attack in report.attacks)
    assert all(entry.sha256 in page for entry in report.inputs)
    assert "predicts NaN or infinite values" in page


def test_the_page_says_that_every_attack_was_withstood(report):
    page = to_html(with_attacks(report, tuple(attack for attack in report.attacks if attack.outcome != "ended")))
    assert "withstood every attack that left the model useful" in page
    assert "Each of the 3 models" in page


def test_a_page_says_where_the_data_come_from(report):
    assert "samples of the model itself" not in to_html(report)
    assert "samples of the model itself" in to_html(report.model_copy(update={"data": "own-samples"}))


def test_a_hostile_name_is_text_and_nothing_else(report):
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    attacks = tuple(attack.model_copy(update={"name": evil, "family": evil, "id": evil}) for attack in report.attacks)
    page = to_html(with_attacks(report, attacks).model_copy(update={"model_name": evil}))
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


RESULTS = st.lists(
    st.none() | st.tuples(st.integers(0, 3000), st.integers(0, 3000), st.floats(-0.999, 1e6)).filter(lambda x: x[0] <= x[1]),
    max_size=12,
)


def test_the_page_shows_a_forged_watermark_as_one_that_ended(report):
    def forged(matches):
        part = measured(matches, 400, 0.0)
        return AttackResult(
            id="forged", name="a forgery", family=FORGING, outcome=outcome_of(part, 0.2, FORGING), measured=part, reason=None,
            seconds=1,
        )  # fmt: skip

    page = to_html(with_attacks(report, (forged(400),)))
    assert "does not withstand 1 of 1 attacks" in page
    assert "watermark forged" in page
    assert "<circle" not in page
    withstood = tuple(attack for attack in report.attacks if attack.outcome == "withstood")
    page = to_html(with_attacks(report, (*withstood, forged(200))))
    assert "Each of the 3 models is still a match" in page
    assert "and no forged model is one" in page


@given(RESULTS)
def test_a_page_for_any_outcome(results):
    found = [result and measured(*result) for result in results]
    attacks = tuple(
        AttackResult(
            id=f"attack-{number}", name="an attack", family=f"family {number % 3}", outcome=outcome_of(part, 0.2),
            measured=part, reason=None if part else "it is not possible", seconds=1,
        )
        for number, part in enumerate(found)
    )  # fmt: skip
    report = with_attacks(golden(), attacks)
    assert AuditReport.from_json(report.to_json()) == report
    page = to_html(report)
    assert "nan" not in page.replace("predicts NaN", "")
    assert page.count("<circle") == sum(part is not None for part in found)
    assert ("does not withstand" in page) == any(attack.outcome == "ended" for attack in attacks)
    assert all(f'cy="-{digit}' not in page and f'cx="-{digit}' not in page for digit in range(10))

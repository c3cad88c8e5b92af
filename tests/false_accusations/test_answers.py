"""What a service takes, tells and counts. A lax question accuses an innocent, and exact answers give the key away."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from safetensors.numpy import save

from aiao_core.options import VerificationOptions
from aiao_core.protocol import LIMIT_LOG10_P, STRONGEST_LOG10_P
from aiao_core.reports.parts import Input
from aiao_core.reports.summary import Summary, read_report
from aiao_core.reports.verification import Report
from aiao_core.reports.words import OLD_KEY
from service.context import Context
from service.models.service import Checkpoint
from service.tables.webhooks import Delivery
from service.verifications.service import counted
from tests.support import rows, uploads
from tests.support.calls import count, post, problem, register, upload
from tests.support.places import GOLDEN
from tests.support.processes import System

PAGE = {"Accept": "text/html"}


@dataclass(frozen=True)
class Company:
    """A tenant with a model that is ready, and callers of its tokens."""

    backstage: Context
    tenant_id: str
    model_id: str
    secret: str
    admin: httpx.Client
    owner: httpx.Client
    """With the scope models:write."""
    host: httpx.Client
    """With the scope verifications:write: a platform's moderators, who submit suspects."""
    other: httpx.Client
    """Another token of that scope."""

    def submit(self, by: httpx.Client, **body: Any) -> httpx.Response:
        """Submit a suspect, by default a full checkpoint."""
        if not {"artifact_id", "hub"} & set(body):
            body["artifact_id"] = upload(by, uploads.safetensors())
        return post(by, "/v1/verifications", {"model_id": self.model_id} | body)

    def test(self, by: httpx.Client, report: Report | None = None, **body: Any) -> tuple[str, Report]:
        """The identifier of a finished verification, and its full report."""
        submitted = self.submit(by, **body).raise_for_status().json()
        verification_id = submitted["verification"]["id"]
        return verification_id, rows.finish_verification(
            self.backstage, self.tenant_id, verification_id, submitted["job"]["id"], report
        )


@pytest.fixture(scope="module")
def founded(api: System, backstage: Context) -> Iterator[Callable[..., Company]]:
    """Makes companies."""
    with ExitStack() as clients:

        def found(custody: str = "service") -> Company:
            tenant_id = rows.tenant(backstage.database)

            def caller(scope: str) -> httpx.Client:
                headers = {"Authorization": f"Bearer {rows.token(backstage.database, tenant_id, scope)}"}
                return clients.enter_context(httpx.Client(base_url=api.url, headers=headers, timeout=30))

            admin = caller("admin")
            registered = register(admin, custody=custody)
            model_id, secret = registered["model"]["id"], registered["secret_key"]
            rows.finish_embedding(backstage, model_id, secret, Checkpoint(f"marked/{model_id}", "0" * 64, 1))
            scopes = ("models:write", "verifications:write", "verifications:write")
            return Company(backstage, tenant_id, model_id, secret, admin, *map(caller, scopes))

        yield found


@pytest.fixture(scope="module")
def company(founded: Callable[..., Company]) -> Company:
    """One whose tests nobody counts."""
    return founded()


# Who asks laxly


LAX = [
    ({"seed": 0}, "with a seed of choice a test is repeated until it matches"),
    ({"seed": 7}, "with a seed of choice a test is repeated until it matches"),
    ({"draws": 1}, "draws is 4 in every verdict, not 1:"),
    ({"draws": 99}, "draws is 4 in every verdict, not 99:"),
    ({"draws": 1000}, "draws is 4 in every verdict, not 1000:"),
    ({"decoys": 0}, "decoys is 8 in every verdict, not 0:"),
    ({"decoys": 7}, "decoys is 8 in every verdict, not 7:"),
    ({"tau": 0.51}, "tau is 0.75 in every verdict, not 0.51:"),
    ({"tau": 0.9}, "tau is 0.75 in every verdict, not 0.9:"),
    ({"max_log10_p": -19.26}, "max_log10_p is at most -19.27 (2^-64), not -19.26: a laxer limit accuses innocents"),
    ({"max_log10_p": -9}, "max_log10_p is at most -19.27 (2^-64), not -9: a laxer limit accuses innocents"),
    ({"max_log10_p": -0.38}, "max_log10_p is at most -19.27 (2^-64), not -0.38: a laxer limit accuses innocents"),
]


@pytest.mark.parametrize(("options", "reason"), LAX, ids=str)
def test_nobody_moves_the_limit_the_draws_or_the_seed_of_a_test(company, backstage, options, reason):
    before = count(backstage, "jobs")
    for caller in (company.admin, company.host):
        detail = problem(company.submit(caller, options=options), 422, "invalid-request")
        assert detail.startswith("body.options: ")
        assert reason in detail
        assert detail.endswith("; ".join(VerificationOptions(**options).departures()))
    assert count(backstage, "jobs") == before


def test_of_several_lax_options_each_is_named(company):
    options = {"seed": 7, "draws": 1, "decoys": 0, "tau": 0.51, "max_log10_p": -0.001}
    detail = problem(company.submit(company.host, options=options), 422, "invalid-request")
    for name in options:
        assert re.search(rf"[:;,] {name} (?:is|follows)", detail), name


@pytest.mark.parametrize("limit", [LIMIT_LOG10_P, -19.27, -25, -10_000])
def test_an_owner_may_ask_for_less_chance_and_never_for_more(company, limit):
    answer = company.submit(company.admin, options={"max_log10_p": limit})
    assert answer.status_code == 202
    assert answer.json()["verification"]["options"]["max_log10_p"] == limit


def test_the_rules_may_be_named_as_they_are(company):
    options = {"draws": 4, "decoys": 8, "tau": 0.75, "max_log10_p": LIMIT_LOG10_P, "seed": None}
    assert company.submit(company.host, options=options).json()["verification"]["options"] == options


def test_a_caller_without_the_key_finds_no_exact_figure_by_ever_stricter_limits(founded):
    """Match at -207.2 and no match at -207.3: twenty such answers of one file are its figure."""
    company = founded("owner")
    options, before = {"max_log10_p": -25}, count(company.backstage, "jobs")
    detail = problem(company.submit(company.host, options=options, secret_key=None), 403, "forbidden")
    assert "max_log10_p" in detail
    assert count(company.backstage, "jobs") == before
    answer = company.submit(company.host, options=options, secret_key=company.secret)
    assert answer.status_code == 202


# Whose adapter it is


LORA = {
    "kohya": ("lora_unet_mid_block_attentions_0_to_q.lora_down.weight", "lora_unet_mid_block_attentions_0_to_q.lora_up.weight"),
    "kohya LoHa": ("lycoris_mid_block_attentions_0_to_q.hada_w1_a", "lycoris_mid_block_attentions_0_to_q.hada_w1_b"),
    "PEFT": ("unet.mid_block.attentions.0.to_q.lora_A.weight", "unet.mid_block.attentions.0.to_q.lora_B.weight"),
    "PEFT, of a layer": (
        "base_model.model.mid_block.attentions.0.to_q.lora_A.weight",
        "base_model.model.mid_block.attentions.0.to_q.lora_B.weight",
    ),
    "PEFT, of a transformer": (
        "transformer.transformer_blocks.0.attn.to_q.lora_A.default.weight",
        "transformer.transformer_blocks.0.attn.to_q.lora_B.default.weight",
    ),
    "diffusers": ("unet.mid_block.attentions.0.to_q.lora.down.weight", "unet.mid_block.attentions.0.to_q.lora.up.weight"),
    "diffusers, older": (
        "mid_block.attentions.0.processor.to_q_lora.down.weight",
        "mid_block.attentions.0.processor.to_q_lora.up.weight",
    ),
}


@pytest.mark.parametrize("names", LORA.values(), ids=LORA.keys())
def test_an_adapter_is_never_merged_into_the_owners_marked_model(company, backstage, names):
    """In release 0.1.0 every adapter was, without a word, and so matched at 10^-343 to 10^-400."""
    adapter = upload(company.host, save({name: np.ones((4, 8), np.float32) for name in names}))
    before = count(backstage, "jobs")
    for caller in (company.admin, company.host):
        detail = problem(company.submit(caller, artifact_id=adapter), 422, "adapter-without-base")
        assert "name the model that it was made for as base_artifact_id" in detail
    assert count(backstage, "jobs") == before
    base = upload(company.host, uploads.safetensors())
    assert company.submit(company.host, artifact_id=adapter, base_artifact_id=base).status_code == 202


def test_an_adapter_with_other_tensors_around_it_is_one(company):
    full = {f"block.{number}.weight": np.ones((2, 2), np.float32) for number in range(50)}
    adapter = save(full | {name: np.ones((4, 8), np.float32) for name in LORA["PEFT"]}, {"format": "pt"})
    problem(company.submit(company.host, artifact_id=upload(company.host, adapter)), 422, "adapter-without-base")


# Who sees what


def exact(report: Report) -> set[str]:
    """The figures of a report as documents, pages and terminals write them, without their last digits."""
    tests = [report.test, report.triggered_alone, report.untriggered, *report.decoys]
    tests += [test for test in (report.source_test, report.base_test) if test]
    tests += [way.test for way in report.ways or ()]
    figures = {str(test.matches) for test in tests} | {str(test.bits) for test in tests}
    figures |= {f"{test.log10_p:.5g}"[:-1] for test in tests if test.log10_p < -1}
    figures |= {f"{-report.test.log10_p:.0f}"} if report.test.log10_p < -99 else set()
    rates = [report.vs_rate, report.rs_rate]
    values = [value for rate in rates for value in (rate.value, rate.low, rate.high)]
    values += [value for subpath in report.subpaths for value in (subpath.rs, subpath.vs)]
    return figures | {f"{value:.3f}"[:-1] for value in values} | {f"{100 * value:.2f}"[:-1] for value in values}


def told(text: str, figures: set[str]) -> set[str]:
    """Those of the ``figures`` that are in a text; not as parts of other words and numbers, such as identifiers and times."""
    text = re.sub(r"\d{4}-\d\d-\d\d[T ][\d:.]+", "", text)
    return {figure for figure in figures if re.search(rf"(?<![\w.]){re.escape(figure)}", text)}


FOUND, HALF_FOUND, NOT_FOUND = rows.FOUND, rows.HALF_FOUND, rows.NOT_FOUND
OUTCOMES = {
    "beyond 2^-128": (rows.a_report(FOUND), "match", STRONGEST_LOG10_P),
    "beyond 2^-64": (rows.a_report(HALF_FOUND), "match", LIMIT_LOG10_P),
    "chance": (rows.a_report(NOT_FOUND), "no-match", None),
    "nearly": (rows.a_report(830), "no-match", None),
    "base marked": (rows.a_report(FOUND, tested="base", base_name="their model"), "base-marked", STRONGEST_LOG10_P),
    "adapter": (rows.a_report(HALF_FOUND, tested="adapter", base=691, base_name="their model"), "match", LIMIT_LOG10_P),
    "source marked": (rows.a_report(FOUND, source=HALF_FOUND), "invalid", None),
    "decoys found": (rows.a_report(NOT_FOUND, decoy=HALF_FOUND), "invalid", None),
}


@pytest.mark.parametrize(("report", "verdict", "bound"), OUTCOMES.values(), ids=OUTCOMES.keys())
def test_who_neither_owns_nor_holds_the_key_learns_no_figure_that_spells_out_its_signs(company, report, verdict, bound):
    """194 harmless suspects, each with one channel changed, returned all of 1,312 signs by the counts of their reports."""
    verification_id, report = company.test(company.host, report)
    place, figures = f"/v1/verifications/{verification_id}", exact(report)
    full = company.owner.get(f"{place}/report").text
    assert full == report.to_json()
    assert {str(report.test.matches), str(rows.BITS)} <= told(full, figures)
    assert len(told(full, figures)) > 15  # so that what is looked for below can be found
    for caller in (company.host, company.other):
        shown = caller.get(place).json()
        assert (shown["verdict"], shown["bound_log10_p"]) == (verdict, bound)
        assert (shown["log10_p"], shown["vs_rate"], shown["rs_rate"]) == (None, None, None)
        (listed,) = (item for item in caller.get("/v1/verifications").json()["items"] if item["id"] == verification_id)
        assert listed == shown
        summary = read_report(caller.get(f"{place}/report").text)
        assert summary == Summary.of(report)
        assert (summary.verdict, summary.bound_log10_p, summary.reason) == (verdict, bound, report.reason)
        texts = [caller.get(path, headers=headers).text for path in (place, f"{place}/report") for headers in ({}, PAGE)]
        texts += [caller.get("/v1/verifications", params={"verdict": verdict}).text, caller.get("/v1/jobs").text]
        for text in texts:
            assert verification_id in text or report.suspect_name in text or "&lt;script&gt;" in text
            # The bound that is told may be the number itself: -38.53 and -19.26.
            assert told(text.replace(str(bound), ""), figures) == set()


@pytest.mark.parametrize("scope", ["models:write", "admin"])
def test_the_keys_owner_sees_every_figure(company, scope):
    verification_id, report = company.test(company.host)
    owner = company.admin if scope == "admin" else company.owner
    shown = owner.get(f"/v1/verifications/{verification_id}").json()
    assert shown["log10_p"] == report.test.log10_p
    assert (shown["vs_rate"], shown["rs_rate"]) == (report.vs_rate.value, report.rs_rate.value)
    assert shown in owner.get("/v1/verifications").json()["items"]
    assert owner.get(f"/v1/verifications/{verification_id}/report").text == report.to_json()
    page = owner.get(f"/v1/verifications/{verification_id}/report", headers=PAGE).text
    assert f"{report.test.matches} of {report.test.bits}" in page
    assert f"{report.test.log10_p:.2f}" in page


def test_the_keys_holder_sees_the_figures_of_what_it_submitted_and_of_nothing_else(founded):
    company = founded("owner")
    mine, report = company.test(company.host, secret_key=company.secret)
    theirs, _ = company.test(company.other, secret_key=company.secret)
    for caller, seen, hidden in ((company.host, mine, theirs), (company.other, theirs, mine)):
        assert caller.get(f"/v1/verifications/{seen}").json()["log10_p"] == report.test.log10_p
        assert isinstance(read_report(caller.get(f"/v1/verifications/{seen}/report").text), Report)
        assert str(report.test.matches) in caller.get(f"/v1/verifications/{seen}/report", headers=PAGE).text
        assert caller.get(f"/v1/verifications/{hidden}").json()["log10_p"] is None
        assert isinstance(read_report(caller.get(f"/v1/verifications/{hidden}/report").text), Summary)
        assert str(report.test.matches) not in caller.get(f"/v1/verifications/{hidden}/report", headers=PAGE).text
        listed = {item["id"]: item["log10_p"] for item in caller.get("/v1/verifications").json()["items"]}
        assert listed == {seen: report.test.log10_p, hidden: None}


def test_who_only_submitted_holds_no_key(company):
    """Of a key that the service keeps, a submission without its secret proves nothing of who made it."""
    verification_id, _ = company.test(company.host)
    assert company.host.get(f"/v1/verifications/{verification_id}").json()["log10_p"] is None


def test_a_tag_of_the_full_report_opens_it_to_nobody_else(company):
    verification_id, _ = company.test(company.host)
    for path in ("", "/report"):
        for headers in ({}, PAGE):
            place = f"/v1/verifications/{verification_id}{path}"
            full, coarse = (caller.get(place, headers=headers) for caller in (company.owner, company.host))
            assert full.headers["etag"] != coarse.headers["etag"]
            held = headers | {"If-None-Match": full.headers["etag"]}
            again = company.host.get(place, headers=held)
            assert (again.status_code, again.text) == (200, coarse.text)
            assert company.owner.get(place, headers=held).status_code == 304
            own = headers | {"If-None-Match": coarse.headers["etag"]}
            assert company.host.get(place, headers=own).status_code == 304
            assert company.owner.get(place, headers=own).text == full.text


@pytest.mark.parametrize("outcome", ["base marked", "source marked", "decoys found"])
def test_what_proves_nothing_is_never_shown_as_a_match_and_says_why(founded, outcome):
    company = founded()
    report, verdict, _ = OUTCOMES[outcome]
    match, _ = company.test(company.host)
    verification_id, report = company.test(company.host, report)
    for caller in (company.owner, company.host):
        shown = caller.get(f"/v1/verifications/{verification_id}").json()
        assert (shown["status"], shown["verdict"], shown["reason"]) == ("succeeded", verdict, report.reason)
        assert (shown["tested"], shown["base_name"]) == (report.tested, report.base_name)
        for wanted, found in (("match", match), (verdict, verification_id)):
            items = caller.get("/v1/verifications", params={"verdict": wanted}).json()["items"]
            assert [item["id"] for item in items] == [found]
        document = caller.get(f"/v1/verifications/{verification_id}/report").json()
        assert (document["verdict"], document.get("reason")) == (verdict, report.reason)
        page = caller.get(f"/v1/verifications/{verification_id}/report", headers=PAGE).text
        assert "answers with the owner&#39;s key." not in page
        if verdict == "base-marked":
            assert "The base carries the mark. Nothing is said of the adapter." in page
        else:
            assert "The test is invalid: it proves nothing either way." in page
            first = report.reason[:40].replace("'", "&#39;")
            assert first[1:] in page
    assert company.host.get("/v1/verifications", params={"verdict": "no-match"}).json()["items"] == []


# How often


def numbers(company: Company, verification_id: str) -> tuple[int, int]:
    shown = company.host.get(f"/v1/verifications/{verification_id}").json()
    return shown["with_key"], shown["of_file"]


def test_repeating_a_test_until_it_matches_is_told_in_its_report(founded):
    company = founded()
    file, other = ({"suspect_weights": "sha256:" + digit * 64} for digit in "ab")
    reports = [rows.a_report(**weights) for weights in (file, other, file, file)]
    expected = [(1, 1), (2, 1), (3, 2), (4, 3)]
    for report, (with_key, of_file) in zip(reports, expected, strict=True):
        verification_id, made = company.test(company.host, report)
        assert numbers(company, verification_id) == (made.tests.with_key, made.tests.of_file) == (with_key, of_file)
        full = Report.from_json(company.owner.get(f"/v1/verifications/{verification_id}/report").text)
        assert full.tests == made.tests
        assert full.corrected_log10_p == pytest.approx(full.claimed_log10_p + np.log10(with_key + of_file - 1))
        assert read_report(company.host.get(f"/v1/verifications/{verification_id}/report").text).tests == made.tests
        for caller in (company.owner, company.host):
            page = caller.get(f"/v1/verifications/{verification_id}/report", headers=PAGE).text
            assert re.search(rf"The {with_key}\w\w test with this key, and the {of_file}\w\w of these weights", page)


def test_trying_keys_until_one_finds_a_file_is_told_in_its_report(founded):
    """The tests of one file are counted across all keys of a tenant; another tenant's are not this one's."""
    company, stranger = founded(), founded()
    weights = {"suspect_weights": "sha256:" + "c" * 64}
    registered = register(company.admin)
    second = registered["model"]["id"]
    rows.finish_embedding(company.backstage, second, registered["secret_key"], Checkpoint("nowhere", "0" * 64, 1))
    made = [
        company.test(company.host, rows.a_report(**weights), model_id=model_id)[1].tests
        for model_id in (company.model_id, second, second, company.model_id)
    ]
    assert [(tests.with_key, tests.of_file) for tests in made] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    tests = stranger.test(stranger.host, rows.a_report(**weights))[1].tests
    assert (tests.with_key, tests.of_file) == (1, 1)


def test_tests_at_the_same_time_are_each_counted(founded):
    company, together, weights = founded(), 8, "sha256:" + "d" * 64
    ids = [company.submit(company.host).json()["verification"]["id"] for _ in range(together)]
    start = threading.Barrier(together)

    def test(verification_id: str) -> tuple[int, int]:
        start.wait(30)
        with company.backstage.database.session() as session:
            counts = counted(session, company.tenant_id, verification_id, weights)
        return counts.with_key, counts.of_file

    with ThreadPoolExecutor(together) as pool:
        made = list(pool.map(test, ids))
    assert sorted(made) == [(number, number) for number in range(1, together + 1)]
    assert [numbers(company, each) for each in ids] == made


def test_another_attempt_at_a_job_is_not_another_test(founded):
    company, weights = founded(), "sha256:" + "e" * 64
    first, second = (company.submit(company.host).json()["verification"]["id"] for _ in range(2))

    def attempt(verification_id: str, weights: str = weights) -> tuple[int, int]:
        with company.backstage.database.session() as session:
            counts = counted(session, company.tenant_id, verification_id, weights)
        return counts.with_key, counts.of_file

    assert [attempt(first), attempt(second), attempt(first), attempt(second)] == [(1, 1), (2, 2), (1, 1), (2, 2)]
    assert attempt(second, "sha256:" + "f" * 64) == (2, 1)  # a repository of the hub that has changed meanwhile
    assert attempt(company.submit(company.host).json()["verification"]["id"]) == (3, 2)


def test_a_test_that_failed_is_counted_too(founded):
    """Who has seen a test stop at half of it has seen something of it."""
    company, weights = founded(), "sha256:" + "9" * 64
    stopped = company.submit(company.host).json()["verification"]
    with company.backstage.database.session() as session:
        counted(session, company.tenant_id, stopped["id"], weights)
    post(company.host, f"/v1/jobs/{stopped['job_id']}/cancel", None).raise_for_status()
    assert company.host.get(f"/v1/verifications/{stopped['id']}").json()["status"] == "canceled"
    tests = company.test(company.host, rows.a_report(suspect_weights=weights))[1].tests
    assert (tests.with_key, tests.of_file) == (2, 2)


def test_tests_from_before_tests_were_counted_are_tests_with_the_key(founded):
    company = founded()
    for _ in range(3):
        old, report = company.test(company.host, rows.an_old_report())
        assert report.tests is None
        assert numbers(company, old) == (None, None)
    company.submit(company.host).raise_for_status()  # one that has not been made
    tests = company.test(company.host)[1].tests
    assert (tests.with_key, tests.of_file) == (4, 1)


def test_the_tag_of_a_running_test_changes_with_its_number(founded):
    company = founded()
    place = f"/v1/verifications/{company.submit(company.host).json()['verification']['id']}"
    held = company.host.get(place).headers["etag"]
    assert company.host.get(place, headers={"If-None-Match": held}).status_code == 304
    with company.backstage.database.session() as session:
        counted(session, company.tenant_id, place.rpartition("/")[2], "sha256:" + "8" * 64)
    answer = company.host.get(place, headers={"If-None-Match": held})
    assert (answer.status_code, answer.json()["with_key"]) == (200, 1)


# Whose key was shown


def opened(company: Company, by: httpx.Client, **headers: str) -> httpx.Response:
    return post(by, f"/v1/models/{company.model_id}/key/opened", None, **headers)


def test_a_key_that_others_have_seen_accuses_nobody_any_more(founded):
    """Models can be made with it now: those who have seen it can plant the mark in another's model."""
    company = founded()
    before, report = company.test(company.host)
    assert company.owner.get(f"/v1/models/{company.model_id}/key").json()["opened_at"] is None
    answer = opened(company, company.owner)
    assert answer.status_code == 200
    assert answer.json() == {"model_id": company.model_id, "opened_at": answer.json()["opened_at"]}
    day = answer.json()["opened_at"][:10]
    jobs = count(company.backstage, "jobs")
    for caller in (company.admin, company.host):
        for suspect in ({}, {"hub": "hf://owner/name"}):
            detail = problem(company.submit(caller, **suspect), 409, "conflict")
            assert f"the key of {company.model_id} was opened on {day}" in detail
            assert "a new test proves nothing" in detail
            assert "Renew the model for a new key" in detail
    assert count(company.backstage, "jobs") == jobs
    assert company.owner.get(f"/v1/verifications/{before}/report").text == report.to_json()  # it stands
    audit = post(company.owner, f"/v1/models/{company.model_id}/audits", {"preset": "quick"})
    assert audit.status_code == 202
    assert company.owner.get(f"/v1/models/{company.model_id}").json()["status"] == "ready"


def test_opening_a_key_twice_changes_nothing_and_is_noted_once(founded):
    company = founded()
    first = opened(company, company.owner)
    once = {"Idempotency-Key": "once"}
    for caller, headers in ((company.owner, {}), (company.admin, once), (company.admin, once)):
        again = opened(company, caller, **headers)
        assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    shown = company.host.get(f"/v1/models/{company.model_id}/key").json()
    assert shown["opened_at"] == first.json()["opened_at"]
    acts = company.admin.get("/v1/activity", params={"subject_id": company.model_id}).json()["items"]
    (act,) = (act for act in acts if act["action"] == "key.open")
    tokens = {token["id"]: token["scopes"] for token in company.admin.get("/v1/tokens").json()["items"]}
    assert tokens[act["actor"]] == ["models:write"]


def test_the_tag_of_a_public_key_changes_when_the_key_is_opened(founded):
    company = founded()
    place = f"/v1/models/{company.model_id}/key"
    held = {"If-None-Match": company.host.get(place).headers["etag"]}
    assert company.host.get(place, headers=held).status_code == 304
    opened(company, company.owner).raise_for_status()
    answer = company.host.get(place, headers=held)
    assert (answer.status_code, answer.json()["opened_at"] is None) == (200, False)


def test_a_platforms_token_opens_no_key(founded):
    company, stranger = founded(), founded()
    assert "models:write" in problem(opened(company, company.host), 403, "forbidden")
    problem(opened(company, stranger.owner), 404, "not-found")
    assert company.owner.get(f"/v1/models/{company.model_id}/key").json()["opened_at"] is None
    assert company.submit(company.host).status_code == 202


# Who hears of it


def message(company: Company, **verification: Any) -> tuple[dict[str, Any], str, Report]:
    """The body of the webhook of a finished verification: read, and as it is sent."""
    webhook = (
        post(company.admin, "/v1/webhooks", {"url": "https://example.com/aiao"}).raise_for_status().json()["webhook"]["id"]
    )
    verification_id, report = company.test(company.host, **verification)
    with company.backstage.database.session() as session:
        body = session.scalars(sa.select(Delivery.body).where(Delivery.webhook_id == webhook)).one()
    assert json.loads(body)["data"]["subject_id"] == verification_id
    return json.loads(body), body, report


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        ("beyond 2^-128", "model.zip answers with the owner's key"),
        ("chance", "the owner's watermark was not found in model.zip"),
        ("adapter", "the adapter model.zip on its base their model answers with the owner's key"),
        ("base marked", "the base their model of the adapter model.zip carries the mark; nothing is said of the adapter"),
        ("source marked", "the test of model.zip proves nothing either way: the owner's key is found in the source"),
    ],
)
def test_a_message_says_what_was_tested_and_no_figure(founded, outcome, sentence):
    """A message of a match that names the adapter alone accuses its author of what its base did."""
    company = founded()
    report, verdict, bound = OUTCOMES[outcome]
    body, sent, report = message(company, report=report)
    said = body["data"]["verification"]
    assert body["type"] == "job.succeeded"
    assert said["sentence"].startswith(sentence)
    assert said == {
        "verdict": verdict,
        "reason": report.reason,
        "tested": report.tested,
        "suspect_name": "model.zip",
        "base_name": report.base_name,
        "bound_log10_p": bound,
        "sentence": said["sentence"],
        "key_version": 2,
        "notice": OLD_KEY,
    }
    assert told(sent.replace(str(bound), ""), exact(report)) == set()


def test_a_message_of_a_test_that_did_not_end_tells_no_verdict(founded):
    company = founded()
    webhook = (
        post(company.admin, "/v1/webhooks", {"url": "https://example.com/aiao"}).raise_for_status().json()["webhook"]["id"]
    )
    job_id = company.submit(company.host).json()["job"]["id"]
    post(company.host, f"/v1/jobs/{job_id}/cancel", None).raise_for_status()
    with company.backstage.database.session() as session:
        body = json.loads(session.scalars(sa.select(Delivery.body).where(Delivery.webhook_id == webhook)).one())
    said = body["data"]["verification"]
    assert body["type"] == "job.canceled"
    assert {name for name, value in said.items() if value is not None} == {"suspect_name"}


def test_a_message_of_another_job_says_nothing_of_a_verification(founded):
    company = founded()
    webhook = (
        post(company.admin, "/v1/webhooks", {"url": "https://example.com/aiao"}).raise_for_status().json()["webhook"]["id"]
    )
    post(company.admin, f"/v1/jobs/{register(company.admin)['job']['id']}/cancel", None).raise_for_status()
    with company.backstage.database.session() as session:
        body = json.loads(session.scalars(sa.select(Delivery.body).where(Delivery.webhook_id == webhook)).one())
    assert body["data"]["kind"] == "embed"
    assert "verification" not in body["data"]


# What was said before


def test_a_report_of_an_older_release_stays_as_it_is_for_the_owner_and_is_a_summary_for_others(company):
    golden = (GOLDEN / "report-v5.json").read_text()
    report = Report.from_json(golden)
    verification_id, _ = company.test(company.host, report)
    place = f"/v1/verifications/{verification_id}"
    assert company.owner.get(f"{place}/report").text == golden
    assert company.owner.get(place).json()["log10_p"] == report.test.log10_p
    page = company.owner.get(f"{place}/report", headers=PAGE).text
    assert "This report is from before the rules of a verdict." in page
    assert "The caller could choose its limit, its seed and its draws" in page
    summary = read_report(company.host.get(f"{place}/report").text)
    assert summary == Summary.of(report)
    assert (summary.report_version, summary.verdict, summary.max_log10_p) == (5, "match", -9)
    coarse = company.host.get(f"{place}/report", headers=PAGE).text
    assert "This verdict is from before the rules of today." in coarse
    assert company.host.get(place).json()["log10_p"] is None
    texts = (coarse, company.host.get(place).text, company.host.get(f"{place}/report").text)
    figures = exact(report) - told(str(report.software), exact(report))
    assert str(report.test.matches) in figures
    assert [told(text.replace(str(STRONGEST_LOG10_P), ""), figures) for text in texts] == [set()] * 3


def test_an_old_match_that_would_be_none_today_claims_no_bound(company):
    verification_id, report = company.test(company.host, rows.an_old_report())
    assert LIMIT_LOG10_P < report.test.log10_p < report.max_log10_p
    for caller in (company.owner, company.host):
        shown = caller.get(f"/v1/verifications/{verification_id}").json()
        assert (shown["verdict"], shown["bound_log10_p"], shown["with_key"], shown["tested"]) == ("match", None, None, None)
    page = company.owner.get(f"/v1/verifications/{verification_id}/report", headers=PAGE).text
    assert "With today&#39;s limit it would not be a match." in page


def test_a_hub_suspect_is_told_with_its_commit_and_no_figure(company):
    suspect = Input(role="suspect", name="hf://someone/copied@" + "0" * 40, sha256="1" * 64)
    report = rows.a_report(suspect_name=suspect.name, inputs=(suspect,))
    verification_id, report = company.test(company.host, report, hub="hf://someone/copied")
    shown = company.host.get(f"/v1/verifications/{verification_id}").json()
    assert (shown["suspect_name"], shown["suspect_sha256"], shown["log10_p"]) == (suspect.name, suspect.sha256, None)
    summary = read_report(company.host.get(f"/v1/verifications/{verification_id}/report").text)
    assert summary.inputs == (suspect,)

import pytest

from aiao._cli.commands.audits import print_audit
from aiao._cli.display import print_verdict, stages, transfer
from aiao_core.progress import Progress
from aiao_core.reports.summary import Summary
from aiao_core.reports.words import OLD_KEY
from tests.support import rows


def test_every_stage_has_a_bar_and_what_is_over_is_full(capsys):
    with stages("embed") as show:
        show(Progress("queued", 0, 0))
        for step in (1, 2, 3):
            show(Progress("probe", step, 60))
        show(Progress("embedding", 5, 8, {"response": 0.123456}))
    out, err = capsys.readouterr()
    assert out == ""
    assert "queued" not in err
    probe, embedding = (line.split() for line in err.splitlines() if "embed: " in line)
    assert "60/60" in probe
    assert "5/8" in embedding
    assert embedding[-2:] == ["response", "0.123"]


def test_of_many_stages_the_latest_alone_may_be_shown(capsys):
    with stages("audit", latest=True) as show:
        show(Progress("1/2 lora-4-100: fine-tuning", 60, 60))
        show(Progress("2/2 weight-clipping: draws", 1, 2))
    bars = [line for line in capsys.readouterr().err.splitlines() if "audit: " in line]
    assert [line.split()[1] for line in bars] == ["2/2"]


def test_a_log_gets_a_line_for_each_tenth(capsys):
    with stages("embed") as show:
        for step in range(1, 101):
            show(Progress("embedding", step, 100, {"response": step / 100}))
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("embed embedding")]
    assert len(lines) == 10
    assert lines[2] == "embed embedding 30 of 100  response 0.3"


def test_a_job_that_still_waits_says_so(capsys):
    with stages("embed") as show:
        show(Progress("queued", 0, 0))
    assert "embed: queued" in capsys.readouterr().err


def test_labels_are_printed_literally(capsys):
    with stages("[/x][red]") as show:
        show(Progress("[bold]", 1, 2))
    with transfer("[/y]") as moved:
        moved(1, 2)
    err = capsys.readouterr().err
    assert "[/x][red]: [bold]" in err
    assert "[/y]" in err


def test_a_script_sees_no_progress(capsys):
    with stages("embed", quiet=True) as show, transfer("upload", quiet=True) as moved:
        show(Progress("probe", 1, 2))
        moved(1, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("key_version", [None, 1, 2, 3])
def test_what_is_known_of_an_older_key_is_said_beside_its_verdict(key_version, capsys):
    changes = {"key_version": key_version, "verified_subpaths": 1 if key_version == 3 else None}
    report = rows.a_report().model_copy(update=changes)
    audit = rows.an_audit_report().model_copy(update={"key_version": key_version})
    for show, told in ((print_verdict, report), (print_verdict, Summary.of(report)), (print_audit, audit)):
        show(told)
        assert (f"the key is from before version 3: {OLD_KEY}\n" in capsys.readouterr().out) == (key_version != 3)

"""The reports in a real browser, on a phone and on paper."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from aiao_core.reports import audit_page as audit_html
from aiao_core.reports.audit import AuditReport
from aiao_core.reports.verification import Report
from aiao_core.reports.verification_page import to_html
from tests.support.places import GOLDEN

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def chromium(tmp_path: Path, *arguments: str) -> str:
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    command = [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def verification_page() -> str:
    report = Report.from_json((GOLDEN / "report-v1.json").read_bytes())
    return to_html(report.model_copy(update={"suspect_name": "a" * 120 + ".safetensors"}))


def audit_page() -> str:
    report = AuditReport.from_json((GOLDEN / "audit-v1.json").read_bytes())
    return audit_html.to_html(report.model_copy(update={"model_name": "a" * 120}))


@pytest.fixture(params=[verification_page, audit_page])
def page(request, tmp_path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(request.param())
    return path


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(tmp_path, page, width):
    frame = tmp_path / "frame.html"  # headless windows have a least width; a frame has not
    frame.write_text(
        f'<iframe id="f" src="report.html" style="width:{width}px;height:800px;border:0"></iframe><script>'
        'document.getElementById("f").onload = (e) => {'
        "document.title = 'wide:' + e.target.contentDocument.documentElement.scrollWidth }</script>"
    )
    dom = chromium(tmp_path, "--allow-file-access-from-files", "--virtual-time-budget=3000", "--dump-dom", frame.as_uri())
    assert int(re.search(r"wide:(\d+)", dom).group(1)) <= width


def test_it_prints(tmp_path, page):
    chromium(tmp_path, f"--print-to-pdf={tmp_path / 'report.pdf'}", page.as_uri())
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")

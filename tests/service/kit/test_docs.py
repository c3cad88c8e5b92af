"""The page of the calls works without the internet, and loads nothing from elsewhere."""

import hashlib
import re
import shutil
import subprocess

import httpx
import pytest

from service.kit import docs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"


def test_every_file_of_the_page_comes_from_this_service(api):
    page = httpx.get(f"{api.url}/docs").raise_for_status()
    named = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert {name.removeprefix("docs/") for name in named} == docs.FILES.keys()
    for name in named:
        assert not name.startswith(("/", "http"))  # also behind a proxy that adds a prefix
        answer = httpx.get(f"{api.url}/{name}").raise_for_status()
        assert answer.headers["content-type"].startswith(docs.FILES[name.removeprefix("docs/")])


def test_the_page_runs_nothing_from_elsewhere(api):
    policy = httpx.get(f"{api.url}/docs").headers["content-security-policy"]
    directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    assert directives["default-src"] == directives["frame-ancestors"] == directives["base-uri"] == "'none'"
    assert directives["script-src"] == directives["connect-src"] == "'self'"


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect", "/docs/README.md", "/docs/..%2fdocs.py", "/docs/%2e%2e"])
def test_nothing_else_is_served(api, path):
    assert httpx.get(f"{api.url}{path}").status_code == 404


def test_the_files_are_those_that_their_version_has():
    told = re.findall(r"`([\w.-]+)` \| `([0-9a-f]{64})`", (docs.FOLDER / "README.md").read_text())
    assert len(told) == 2
    for name, digest in told:
        assert hashlib.sha256((docs.FOLDER / name).read_bytes()).hexdigest() == digest


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_without_the_internet_shows_the_calls(api, tmp_path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", OFFLINE]
    options += [f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--virtual-time-budget=60000", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *options, f"{api.url}/docs"], check=True, capture_output=True, text=True, timeout=300)
    shown = re.findall(r'class="opblock-summary-description">([^<]+)', done.stdout)
    assert "Register a model" in shown
    assert len(shown) > 30
    assert "Content Security Policy" not in done.stderr

"""A Hugging Face hub of one's own: the calls that its library makes for a download, over real HTTP."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from tests.support.http_server import Handler, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories are folders ``owner/name``; every one has the same ``revisions``, all of them :data:`COMMIT`."""

    root: Path
    url: str = ""
    gated: set[str] = field(default_factory=set)
    revisions: set[str] = field(default_factory=lambda: {"main", COMMIT})
    asked: list[str] = field(default_factory=list)
    """The paths of all requests."""
    fetched: list[str] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)
    """Files of which only the beginning was asked for."""
    takes_ranges: bool = True
    tokens: list[str] = field(default_factory=list)


@contextmanager
def hub(root: Path) -> Iterator[Hub]:
    """A hub that serves the folders below ``root``."""
    running = Hub(root)

    class Answers(Handler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            if token := self.headers["Authorization"]:
                running.tokens.append(token)
            path = unquote(urlsplit(self.path).path)
            running.asked.append(path)
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
                self.model_info(*match.groups())
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.file(*match.groups(), body=body)
            else:
                self.refuse(404, "EntryNotFound")

        def model_info(self, repository: str, revision: str) -> None:
            folder = root / repository
            if not folder.is_dir():
                self.refuse(401, "RepoNotFound")
            elif revision not in running.revisions:
                self.refuse(404, "RevisionNotFound")
            else:
                files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
                siblings = [
                    {"rfilename": file.relative_to(folder).as_posix(), "size": file.stat().st_size, "blobId": "0" * 40}
                    for file in files
                ]
                document = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": []}
                self.send(json.dumps(document).encode(), "application/json")

        def file(self, repository: str, commit: str, name: str, *, body: bool) -> None:
            if repository in running.gated:
                self.refuse(403, "GatedRepo")
            elif commit != COMMIT or not (root / repository / name).is_file():
                self.refuse(404, "EntryNotFound")
            else:
                content, asked = (root / repository / name).read_bytes(), self.headers["Range"]
                if body:
                    (running.looked_at if asked else running.fetched).append(name)
                if asked and running.takes_ranges:
                    start, end = map(int, asked.removeprefix("bytes=").split("-"))
                    self.send(content[start : end + 1], "application/octet-stream", body=body, status=206)
                else:
                    self.send(content, "application/octet-stream", body=body)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send(self, content: bytes, kind: str, *, body: bool = True, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.end_headers()
            if body:
                with suppress(ConnectionError):  # of a client that has read enough
                    self.wfile.write(content)

    with serving(Answers) as port:
        running.url = f"http://127.0.0.1:{port}"
        yield running


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What HF_ENDPOINT does, for a library that has been loaded already."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)

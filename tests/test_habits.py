"""What documents, examples and configurations say of this project is true."""

import json
import re
from pathlib import Path

import pytest
import yaml

from aiao_core import __version__
from service.settings import Settings
from tests.support.places import PROJECT

DOCUMENTS = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
OF_TODAY = [document for document in DOCUMENTS if document.name != "CHANGELOG.md"]
"""The changelog also names files of the past."""

ROOMS = {path.name for path in PROJECT.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"demo-output", "build"}
WORDS = (
    "trigger", "response", "subpath", "reach", "draw", "decoy", "reading", "lease", "attempt", "custody", "commitment",
    "verdict", "panel", "control",
)  # fmt: skip
TARGETS = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE)


def names(documents: list[Path]) -> list[str]:
    return [str(document.relative_to(PROJECT)) for document in documents]


def prose(document: Path) -> str:
    """The text without fenced code."""
    return re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """The fragments of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_citation_names_no_version_but_todays():
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text("utf-8"))
    assert citation.get("version", __version__) == __version__
    assert "arXiv:2405.00466" in str(citation["references"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_links_inside_the_repository_resolve(document):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(document))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not fragment or fragment in anchors(target), link


@pytest.mark.parametrize("document", OF_TODAY, ids=names(OF_TODAY))
def test_files_that_documents_name_exist(document):
    named = [word for word in re.findall(r"`([\w./-]+)`", prose(document)) if "/" in word and word.split("/")[0] in ROOMS]
    assert [path for path in named if not (PROJECT / path).exists()] == []


@pytest.mark.parametrize("document", OF_TODAY, ids=names(OF_TODAY))
def test_modules_that_documents_run_exist(document):
    run = re.findall(r"python -m ([\w.]+)", document.read_text("utf-8"))
    ours = [module for module in run if module.split(".")[0] in ROOMS]
    files = [PROJECT / module.replace(".", "/") for module in ours]
    assert [file for file in files if not file.with_suffix(".py").exists() and not (file / "__main__.py").exists()] == []


@pytest.mark.parametrize("document", OF_TODAY, ids=names(OF_TODAY))
def test_commands_that_documents_name_are_in_the_makefile(document):
    commands = re.findall(r"(?:^|`)make ([a-z][\w-]*)", document.read_text("utf-8"), re.MULTILINE)
    assert [command for command in commands if command not in TARGETS] == []


def test_the_readme_describes_every_setting_in_its_own_words():
    text = (PROJECT / "README.md").read_text("utf-8")
    told = {name.lower(): meaning for name, meaning in re.findall(r"^\| `AIAO_(\w+)` \| .+ \| (.+) \|$", text, re.MULTILINE)}
    described = {name: field.description or "" for name, field in Settings.model_fields.items()}
    assert set(told) == set(described)
    assert [name for name, meaning in told.items() if not described[name].startswith(meaning)] == []


def test_the_readme_maps_every_folder_of_code():
    text = (PROJECT / "README.md").read_text("utf-8").split("## The code")[1].split("\n## ")[0]
    rows = [row.split("|")[1:3] for row in text.splitlines() if row.startswith("| `")]
    mapped = {folder: re.findall(r"`(\w+)/`", holds) for named, holds in rows for folder in re.findall(r"`(\w+)/`", named)}
    assert {file.parent.name for file in PROJECT.glob("*/*.py")} <= set(mapped)
    assert [folder for folder in mapped if not (PROJECT / folder).is_dir()] == []
    assert [room for folder, rooms in mapped.items() for room in rooms if not (PROJECT / folder / room).is_dir()] == []


def test_the_words_of_the_glossary_are_in_the_code():
    text = (PROJECT / "docs" / "glossary.md").read_text("utf-8")
    entries = re.findall(r"^\| ([\w ]+) \| .+ \| `([\w./]+)` \(`(\w+)`\) \|$", text, re.MULTILINE)
    assert len(entries) == text.count("\n| ") - 2 * text.count("\n| word")  # but for heads and rules every row is an entry
    assert set(WORDS) <= {word for word, _, _ in entries}
    assert [word for word, file, name in entries if not re.search(rf"\b{name}\b", (PROJECT / file).read_text("utf-8"))] == []


def test_the_container_for_developers_is_made_of_files_that_exist():
    folder = PROJECT / ".devcontainer"
    container = json.loads((folder / "devcontainer.json").read_text("utf-8"))
    services: dict[str, object] = {}
    for file in container["dockerComposeFile"]:
        services |= yaml.safe_load((folder / file).read_text("utf-8"))["services"]
    assert {container["service"], *container["runServices"]} <= set(services)


@pytest.mark.slow
def test_hooks_run_the_same_linters_as_make():
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE)
    linters = {line.split("/")[1].split()[0] for line in recipe[1].splitlines()}
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
    assert {hook["entry"].split()[0] for hook in hooks} == {f".venv/bin/{linter}" for linter in linters}


def held_rows() -> list[list[str]]:
    """The rows of the threat model that say what holds against an attack: attack, what holds, what shows it, what does not."""
    text = (PROJECT / "docs" / "threat-model.md").read_text("utf-8")
    head = r"^\|[^|\n]*\| what holds \| what shows it \| what does not \|\n\|[ |-]+\|\n"
    tables = re.findall(head + r"((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for table in tables for row in table.splitlines()]


@pytest.mark.parametrize("row", held_rows(), ids=lambda row: row[0][:40])
def test_a_test_that_exists_shows_what_the_threat_model_says_holds(row):
    _, holds, shows, _ = row
    named = re.findall(r"\[([^\]]+)\]\(\.\./([^)]+)\)", shows)
    assert bool(named) == bool(holds)
    for name, file in named:
        if name != "every test there":
            assert f"def test_{name.replace(' ', '_')}(" in (PROJECT / file).read_text("utf-8"), name

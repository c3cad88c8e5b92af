"""The package's front: what importing it costs, and that each public name is there once and documented."""

import ast
import inspect
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import aiao
from tests.support.documented import examples
from tests.support.places import PROJECT

HEAVY = {"numpy", "scipy", "torch", "diffusers", "pydantic", "httpx", "cryptography", "jinja2", "typer", "aiao_core"}


def fresh(code: str) -> str:
    """What a new process prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.process
@pytest.mark.process
def test_importing_the_package_loads_nothing_else():
    before = "import sys, importlib, typing; before = set(sys.modules); import aiao"
    assert fresh(f"{before}; print(*set(sys.modules) - before)").split() == ["aiao"]


@pytest.mark.process
@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "loads"),
    [("ClientError", set()), ("EmbeddingOptions", {"pydantic"}), ("Client", {"pydantic", "httpx", "numpy", "cryptography"})],
)
def test_a_name_loads_what_it_needs_when_it_is_used(name, loads):
    code = f"import aiao, sys; aiao.{name}; print(*{{each.partition('.')[0] for each in sys.modules}})"
    assert set(fresh(code).split()) & HEAVY == loads | {"aiao_core"}


def test_the_test_above_looks_for_packages_that_are_here():
    assert [name for name in HEAVY if find_spec(name) is None] == []


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(aiao.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {alias.asname: statement.module for statement in block.body for alias in statement.names}
    assert all(alias.asname == alias.name for statement in block.body for alias in statement.names)
    assert seen == aiao._HOME_OF
    assert len(aiao.__all__) == len(set(aiao.__all__))


@pytest.mark.parametrize("name", aiao.__all__)
def test_a_public_name_is_defined_where_it_is_said_to_be(name):
    value = getattr(aiao, name)
    if name == "__version__":
        assert value == sys.modules["aiao_core"].__version__
        return
    assert value.__module__ == aiao._HOME_OF[name]
    assert inspect.getdoc(value)
    assert name in dir(aiao)


def public_methods(kind: type) -> dict[str, object]:
    """Methods and properties of a class that are its own."""
    return {
        name: value
        for name, value in vars(kind).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property))
    }


def test_every_public_method_is_documented():
    client = aiao.Client("http://127.0.0.1:1", "token")
    resources = [type(each) for each in vars(client).values() if type(each).__module__.startswith("aiao.")]
    kinds = [value for value in map(aiao.__dict__.get, aiao.__all__) if isinstance(value, type)]
    assert len(resources) == 8  # the transport and seven resources
    bare = [
        f"{kind.__name__}.{name}"
        for kind in (*kinds, *resources)
        for name, value in public_methods(kind).items()
        if not value.__doc__
    ]
    assert bare == []


def test_an_unknown_name_is_refused_as_of_any_module():
    with pytest.raises(AttributeError, match="module 'aiao' has no attribute 'lod'"):
        aiao.lod  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'lod'"):
        from aiao import lod  # noqa: F401


@pytest.mark.process
@pytest.mark.process
def test_a_star_brings_every_name():
    assert set(fresh("from aiao import *; print(*dir())").split()) >= set(aiao.__all__) - {"__version__"}


def test_the_readme_shows_the_same_examples():
    readme = (PROJECT / "README.md").read_text()
    assert len(examples()) == 2
    assert [program for program in examples() if f"```python\n{program}\n```" not in readme] == []

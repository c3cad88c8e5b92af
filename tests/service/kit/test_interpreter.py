"""The operator is told of an interpreter with a known flaw."""

import pytest

from service.kit.interpreter import flaws


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 11, 9), (3, 12, 0), (3, 12, 5)])
def test_one_with_the_flaw_of_tarfile_is_named(version):
    (flaw,) = flaws(version)
    assert "CVE-2024-6232" in flaw
    assert ".".join(map(str, version)) in flaw


@pytest.mark.parametrize("version", [(3, 11, 10), (3, 12, 6), (3, 13, 0), (3, 14, 2)])
def test_one_without_it_is_not(version):
    assert flaws(version) == []


def test_the_api_says_so_at_its_start(apis):
    assert ("CVE-2024-6232" in apis("postgresql").log("api")) is bool(flaws())

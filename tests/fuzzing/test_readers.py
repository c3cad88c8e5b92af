"""No bytes make a reader do anything but read them or say why not."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzzing.changes import changed
from tests.fuzzing.readers import CORPUS, READERS, try_out

FOUND = sorted(CORPUS.glob("*/*"))
every_reader = pytest.mark.parametrize("name", READERS)


@every_reader
def test_good_bytes_are_read(name):
    assert [refused for good in READERS[name].good() if (refused := try_out(READERS[name], good))] == []


@pytest.mark.parametrize("file", FOUND, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_bytes_that_were_found_are_read_or_refused(file):
    try_out(READERS[file.parent.name], file.read_bytes())


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
@every_reader
def test_changed_bytes_are_read_or_refused(name, count):
    reader = READERS[name]

    @settings(max_examples=count, suppress_health_check=list(HealthCheck))
    @given(content=changed(reader.good()))
    def try_it(content: bytes) -> None:
        try_out(reader, content)

    try_it()

"""What clients chose of an event is one bounded line of the log, and does to a terminal nothing."""

import json
import logging

import pytest

from service.kit import logs

TYPED = "\x1b[2J a name\n2026-01-01T00:00:00Z [info     ] forged\u2028line\udcff"


@pytest.fixture
def said(monkeypatch, capsys):
    """Says something in the service's log, and returns the lines that came of it."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)

    def say(form: logs.Format, message: str, error: Exception | None = None, **bound: str) -> str:
        logs.configure(form)
        with logs.bound(**bound):
            logging.getLogger("service.tests").error("%s failed", message, exc_info=error)
        return capsys.readouterr().err

    return say


def raised(text: str) -> Exception:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_client_typed_is_one_line_and_no_order_to_a_terminal(said, form):
    (line,) = said(form, TYPED, tenant=TYPED).splitlines()
    assert "\\x1b" in line
    assert line.isprintable()


def test_no_line_of_a_traceback_passes_for_an_event(said):
    first, *others = said("text", "this", raised(TYPED)).split("\n")
    assert "this failed" in first
    assert any("Traceback (most recent call last)" in line for line in others)
    assert all(line.startswith("  ") and line.isprintable() for line in others if line)
    assert "forged" in "".join(others)


def test_a_traceback_is_one_value_of_an_event_in_json(said):
    (line,) = said("json", "this", raised(TYPED)).splitlines()
    assert "ValueError" in json.loads(line)["exception"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_text_of_any_length_takes_little_of_the_log(said, form):
    line = said(form, "b" + "a" * 1_000_000 + "e", raised("c" * 1_000_000), tenant="d" * 1_000_000)
    assert len(line) < 2 * logs.MAX_VALUE + logs.MAX_TRACEBACK + 1000
    assert "baa" in line
    assert "e failed" in line

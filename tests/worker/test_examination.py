"""A worker reads a suspect in a confined child, an owner in the own process: what the report says is the same."""

import json

import pytest

from aiao_core.formats.digests import sha256_path
from aiao_core.reports.parts import Input
from aiao_core.reports.verification import Counts, Report
from aiao_core.verification.examine import Material, ServiceRecord, examine, examine_files
from tests.support.attempts import run
from tests.support.tiny import ready, report_of, submitted
from worker.verify import verify_suspect

pytestmark = pytest.mark.usefixtures("same_seed")

OF_EVERY_REGISTRATION = (
    "tested", "suspect_form", "suspect_weights", "source_weights", "commitment", "architecture", "seed", "draws",
    "trigger_layers", "strayed_channels",
)  # fmt: skip
"""What a report from a key file says too; of its readings fewer count."""


def content(report: Report) -> str:
    return json.dumps({name: value for name, value in json.loads(report.to_json()).items() if name != "created_at"})


@pytest.mark.parametrize(
    ("suspect", "base"),
    [
        ("source.safetensors", None),
        ("marked.zip", None),
        ("lora.bin", "source.zip"),
        ("lora.zip", "marked.safetensors"),
        ("bundle.zip", "source.zip"),
    ],
)
def test_a_workers_report_is_the_librarys_to_the_byte(context, tiny, suspect, base):
    model = ready(context, tiny)
    verification = submitted(context, model, tiny[suspect], tiny[base] if base else None)
    run(verification.job_id, verify_suspect)
    of_worker = report_of(context, verification)

    published = Input(role="watermarked", name="tiny, as published", sha256=sha256_path(tiny["marked.zip"]))
    of_library = examine(
        Material.at(tiny[suspect]),
        tiny.key,
        base=Material.at(tiny[base]) if base else None,
        source=Material.at(tiny["source.zip"]),
        record=ServiceRecord("tiny", published, (), lambda _: Counts(with_key=1, of_file=1)),
    )
    assert content(of_worker) == content(of_library)
    used = ["base"] if suspect.startswith("lora") else []  # a bundle brings its own
    assert [entry.role for entry in of_worker.inputs] == ["suspect", *used, "watermarked", "source"]

    of_owner = examine_files(tiny[suspect], tiny.key, base=tiny[base] if base else None, source=tiny["source"])
    assert [way.test for way in of_owner.ways] == [way.test for way in of_worker.ways]
    assert len(of_owner.ways) == 4
    for name in OF_EVERY_REGISTRATION:
        assert getattr(of_owner, name) == getattr(of_worker, name), name

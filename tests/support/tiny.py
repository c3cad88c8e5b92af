"""A tiny model with and without a mark, registered as a worker finds it."""

import copy
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import torch
from diffusers import DDPMPipeline
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from aiao_core.denoisers.model import DiffusionModel
from aiao_core.formats.archives import pack
from aiao_core.formats.identify import identify
from aiao_core.key import OwnerKey
from aiao_core.reports.verification import Report
from service.auth.callers import Caller
from service.context import Context
from service.jobs.leases import Lease
from service.kit.database import utc_now
from service.kit.ids import new_id
from service.models import service as models
from service.models.schemas import ModelIn
from service.tables.artifacts import Artifact
from service.tables.jobs import Job
from service.tables.models import Model
from service.tables.verifications import Verification
from service.verifications.schemas import VerificationIn
from service.verifications.service import submit
from tests.support.places import GOLDEN
from tests.support.tiny_models import make_marked, make_tiny_model

TENANT = "ten_test"
SOURCE = 5
"""Seed of the source, another than that of the panel's untrained model."""


@dataclass(frozen=True)
class Tiny:
    """Files in ``folder``, and the key of the mark in some of them."""

    folder: Path
    key: OwnerKey

    def __getitem__(self, name: str) -> Path:
        return self.folder / name


def make(folder: Path, run_folder: Path) -> Tiny:
    """The model before and after the watermark, ``source`` and ``marked``, and an innocent's LoRA, in several forms each."""
    source, (marked, key) = make_tiny_model(SOURCE), make_marked(run_folder, SOURCE)
    for name, model in (("source", source), ("marked", marked)):
        save(model, folder / name)
        weights = {layer: each.contiguous() for layer, each in model.denoiser.state_dict().items()}
        save_file(weights, folder / f"{name}.safetensors")
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=0.2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    get_peft_model(copy.deepcopy(source.denoiser), config).save_pretrained(folder / "lora")
    adapter = load_file(folder / "lora" / "adapter_model.safetensors")
    torch.save(adapter, folder / "lora.bin")
    pack(folder / "lora", folder / "lora.zip")
    bundle = shutil.copytree(folder / "marked" / "unet", folder / "bundle")
    save_file(adapter, bundle / "pytorch_lora_weights.safetensors")
    pack(bundle, folder / "bundle.zip")
    return Tiny(folder, key)


def save(model: DiffusionModel, folder: Path) -> None:
    """Save the model's pipeline as a folder and, beside it, as a .zip."""
    DDPMPipeline(model.denoiser, model.schedule.scheduler).save_pretrained(folder)
    pack(folder, folder.with_suffix(".zip"))


def artifact(context: Context, file: Path, tenant_id: str = TENANT) -> str:
    """The identifier of an upload."""
    artifact_id, content = new_id("art"), file.read_bytes()
    context.storage.put(f"artifacts/{artifact_id}", file)
    with file.open("rb") as opened, context.database.session() as session:
        session.add(
            Artifact(
                id=artifact_id, tenant_id=tenant_id, filename=file.name, sha256=hashlib.sha256(content).hexdigest(),
                size=len(content), kind=identify(opened, len(content), file.name), object_name=f"artifacts/{artifact_id}",
                created_at=utc_now(),
            )
        )  # fmt: skip
    return artifact_id


def registered(context: Context, source: Path, tenant_id: str = TENANT) -> tuple[Model, Job]:
    """A model under embedding, and its queued job."""
    request = ModelIn(name="tiny", artifact_id=artifact(context, source, tenant_id))
    with context.database.session() as session:
        return models.register(session, context, tenant_id, request)[:2]


def make_old(folder: Path) -> Tiny:
    """The files of a tiny model of another seed before and after a mark of version 2, and its key."""
    source = make_tiny_model()
    save(source, folder / "source")
    source.denoiser.load_state_dict(load_file(GOLDEN / "marked-v2.safetensors"))
    save(source, folder / "marked")
    shutil.copy(GOLDEN / "marked-v2.safetensors", folder / "marked.safetensors")
    return Tiny(folder, OwnerKey.from_json((GOLDEN / "marked-v2.key.json").read_text()))


def finish(context: Context, model: Model, checkpoint: Path, key: OwnerKey) -> None:
    """Do what a worker does at the end of the embedding of ``key``."""
    name = f"marked/{model.id}.zip"
    context.storage.put(name, checkpoint)
    stored = models.Checkpoint(name, hashlib.sha256(checkpoint.read_bytes()).hexdigest(), checkpoint.stat().st_size)
    lease = Lease.take(context.database, model.job_id, 60)
    assert lease
    with context.database.session() as session:
        lease.succeed(session, f"/v1/models/{model.id}")
        models.mark_ready(session, context.vault, model.tenant_id, model.id, key, (), stored)


def ready(context: Context, tiny: Tiny, *, checkpoint: Path | None = None, tenant_id: str = TENANT, **columns: Any) -> Model:
    """A model whose embedding is done; ``columns`` are changed afterwards. Its key is ``tiny``'s if seeds are that one's."""
    model, _ = registered(context, tiny["source.zip"], tenant_id)
    finish(context, model, checkpoint or tiny["marked.zip"], tiny.key)
    with context.database.session() as session:
        row = session.get(Model, model.id)
        for name, value in columns.items():
            setattr(row, name, value)
    return row


def submitted(context: Context, model: Model, suspect: Path, base: Path | None = None) -> Verification:
    """A queued verification."""
    body = VerificationIn(
        model_id=model.id,
        artifact_id=artifact(context, suspect),
        base_artifact_id=artifact(context, base) if base else None,
    )
    with context.database.session() as session:
        return submit(session, context, Caller(TENANT, new_id("tok"), frozenset({"admin"})), body)[0]


def row(context: Context, kind: type, row_id: str) -> Any:
    """A row as it is now."""
    with context.database.session() as session:
        return session.get(kind, row_id)


def report_of(context: Context, verification: Verification) -> Report:
    """The stored report of a finished verification."""
    with context.database.session() as session:
        return Report.from_json(session.scalars(sa.select(Verification.report).where(Verification.id == verification.id)).one())

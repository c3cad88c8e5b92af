"""Other models on which a new key must find nothing: a control at registration."""

from collections.abc import Iterator

from torch import nn

from aiao_core.formats.pipelines import untrained
from aiao_core.key import OwnerKey
from aiao_core.method.acceleration import accelerator
from aiao_core.protocol import verification_seed
from aiao_core.reports.parts import BitTest, best_of
from aiao_core.verification.measurement import Source, measure
from service.models.repository import ModelRepository
from service.tables.models import Model
from worker.confined import read_model
from worker.running import Work

MAX_OTHER_MODELS = 3
"""Other registered models on which a key is tested: each costs a download and a test."""


def others(work: Work, row: Model, key: OwnerKey) -> Iterator[nn.Module]:
    """Yield an untrained model, and the tenant's newest other marked models of the architecture: one at a time needs memory."""
    yield untrained(key.architecture).to(accelerator().device)
    with work.context.database.read_session() as session:
        alike = ModelRepository(session, row.tenant_id).alike(key.architecture.fingerprint, row.id, MAX_OTHER_MODELS)
        names = [name for model in alike if (name := model.checkpoint_object)]
    for number, name in enumerate(names):
        file = work.scratch / f"panel-{number}.zip"
        work.download(name, file)
        yield read_model(file, work=work)().denoiser
        file.unlink()


def test_on(denoiser: nn.Module, key: OwnerKey, seed: int, source: Source) -> BitTest:
    """Test the key on a model that it never marked, by the draws of ``seed``."""
    return best_of(measure(denoiser, key, seed, source=source).readings())


def seed_of(key: OwnerKey, source_weights: str) -> int:
    """Derive the seed of a key's tests on other models: the same for all of them, so that the source is read once."""
    return verification_seed(key.commitment, source_weights, "panel")

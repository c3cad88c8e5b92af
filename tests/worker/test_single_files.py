"""A model that came as a single file, read and packed again by the confined child."""

import json
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from aiao_core.formats.archives import pack, unpack
from aiao_core.formats.pipelines import load_model
from aiao_core.formats.single_files import MARKED
from service.jobs.repository import LeaseRepository
from tests.support.attempts import run
from worker.confined import read_model, read_source, write_marked
from worker.running import Work

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("worker")]


@pytest.fixture
def single(tmp_path, tiny):
    """A single file in half precision, packed with the settings that only a published model needs not."""
    folder = tmp_path / "mine"
    for part, name in (("unet", "config.json"), ("scheduler", "scheduler_config.json")):
        (folder / part).mkdir(parents=True)
        shutil.copy(tiny["source"] / part / name, folder / part / name)
    weights = {f"unet.{name}": value.half() for name, value in load_file(tiny["source.safetensors"]).items()}
    save_file(weights | {"vae.decoder.conv_in.weight": torch.ones(3)}, folder / "mine.safetensors", metadata={"author": "me"})
    pack(folder, tmp_path / "mine.zip")
    return tmp_path / "mine.zip"


def test_a_single_file_comes_back_as_a_pipeline_and_as_it_came(tmp_path, context, job_id, tiny, single):
    marked = load_file(tiny["marked.safetensors"])

    def task(work: Work) -> None:
        model = read_model(single, work=work)()
        source = load_model(tiny["source"])
        for name, value in source.denoiser.state_dict().items():
            assert torch.equal(model.denoiser.state_dict()[name], value.half().float())
        assert read_source(single, model.architecture, work=work).state_dict().keys() == marked.keys()
        shutil.copy(write_marked(single, tiny["marked.safetensors"], work=work), tmp_path / "out.zip")
        with context.database.session() as session:
            work.lease.succeed(session, "done")

    run(job_id, task)
    with context.database.session() as session:
        job = LeaseRepository(session).get(job_id)
    assert (job.state, job.error) == ("succeeded", None)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert sorted(archive.namelist()) == [
            MARKED, "model_index.json", "scheduler/scheduler_config.json", "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
        ]  # fmt: skip
    folder = unpack(tmp_path / "out.zip", tmp_path / "out")
    found = load_file(folder / MARKED)
    assert found.pop("vae.decoder.conv_in.weight").tolist() == [1, 1, 1]
    assert found.keys() == {f"unet.{name}" for name in marked}
    assert all(torch.equal(found[f"unet.{name}"], value.half()) for name, value in marked.items())
    assert json.loads((folder / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DModel"]
    assert all(torch.equal(load_model(folder).denoiser.state_dict()[name], marked[name].half().float()) for name in marked)

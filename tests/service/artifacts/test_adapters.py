"""Whether a file of weights is an adapter, by its header alone."""

import numpy as np
import pytest
from obstore.exceptions import GenericError
from safetensors.numpy import save

from service.artifacts.adapters import is_adapter
from service.kit.credentials import Credentials
from service.kit.storage import Storage
from service.tables.artifacts import Artifact
from tests.support import uploads

ONE = np.ones((2, 2), np.float32)

pytestmark = pytest.mark.process  # an inspector


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(f"file://{tmp_path / 'storage'}", Credentials())


@pytest.fixture
def stored(storage, tmp_path):
    def stored(content: bytes, kind: str = "safetensors") -> Artifact:
        (tmp_path / "file").write_bytes(content)
        storage.put("artifacts/a", tmp_path / "file")
        return Artifact(kind=kind, object_name="artifacts/a", size=len(content))

    return stored


@pytest.mark.parametrize(
    ("names", "is_one"),
    [
        (["conv.weight"], False),
        (["a.b.c.weight", "scale.alpha"], False),
        (["unet.down.0.to_q.lora_A.weight"], True),
        (["conv.weight", "lora_unet_conv.alpha"], True),
        (["unet.mid.to_q.lora_A.weight"], True),
        (["unet.mid.to_q.lora_B.default.weight"], True),
        (["unet.mid.to_q.lora.up.weight"], True),
        (["unet.mid.processor.to_v_lora.down.weight"], True),
        (["lycoris_mid.lokr_w1"], True),
        (["mid.dora_scale"], True),
    ],
)
def test_an_adapter_is_known_by_the_names_of_its_tensors(storage, stored, names, is_one):
    artifact = stored(save(dict.fromkeys(names, ONE), {"format": "pt"}))
    assert is_adapter(storage, artifact) is is_one


def test_metadata_make_no_adapter(storage, stored):
    assert not is_adapter(storage, stored(save({"conv.weight": ONE}, {"unet.mid.to_q.lora_A.weight": "x"})))


@pytest.mark.parametrize("kind", ["archive", "pickle", "gguf", "images"])
def test_of_other_files_a_worker_says_it(storage, stored, kind):
    adapter = save({"unet.mid.to_q.lora_A.weight": ONE})
    assert not is_adapter(storage, stored(adapter, kind))


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"{", uploads.pickle()])
def test_what_has_no_header_is_left_to_a_worker(storage, stored, content):
    assert not is_adapter(storage, stored(content))


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), GenericError("the storage is away"), OSError("no answer")])
def test_a_submission_does_not_fail_over_a_storage_that_is_away(storage, stored, monkeypatch, error):
    def away(_: str) -> None:
        raise error

    artifact = stored(save({"unet.mid.to_q.lora_A.weight": ONE}))
    monkeypatch.setattr(storage, "open", away)
    assert not is_adapter(storage, artifact)

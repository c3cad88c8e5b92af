"""The same test without any service; needs torch."""

from pathlib import Path

from aiao_core.archives import opened
from aiao_core.digests import sha256_path
from aiao_core.options import VerificationOptions
from aiao_core.progress import ProgressCallback, silent
from aiao_core.report import Input, Report
from aiao_core.suspects import load_suspect
from aiao_core.verification import Subject, verify
from client.errors import ClientError
from client.keyfile import load_key


def verify_offline(suspect: Path, key_file: Path, options: VerificationOptions, progress: ProgressCallback = silent) -> Report:
    """Test ``suspect`` with an owner's key file on this machine; the same seed gives the service's numbers."""
    if not suspect.exists():
        raise ClientError(f"{suspect} does not exist")
    key = load_key(key_file)
    with opened(suspect) as path:
        loaded = load_suspect(path, key.architecture)
    inputs = (Input(role="suspect", name=suspect.name, sha256=sha256_path(suspect)),)
    subject = Subject(suspect.name, loaded.form, inputs)
    return verify(loaded.denoiser, key, options=options, subject=subject, progress=progress)

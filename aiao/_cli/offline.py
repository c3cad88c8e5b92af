"""The same test without any service; needs torch."""

from pathlib import Path

from aiao._client.key_files import load_key
from aiao_core.errors import AdapterWithoutBase
from aiao_core.options import VerificationOptions
from aiao_core.progress import ProgressCallback, silent
from aiao_core.reports.verification import Report
from aiao_core.verification.examine import examine_files


def verify_offline(
    suspect: str | Path,
    key_file: Path,
    options: VerificationOptions,
    progress: ProgressCallback = silent,
    *,
    base: Path | None = None,
    source: Path | None = None,
) -> Report:
    """Test ``suspect`` with an owner's key file on this machine; the same key and weights give the service's numbers.

    ``suspect`` is a file, a folder or a repository ``hf://owner/name@revision``; ``base`` the model that an adapter changes;
    ``source`` the registered model before the watermark: a control, and what shows permuted channels. Readings that depend on
    the source or on the key file's subpaths are reported and do not count, because nothing shows here that both are older than
    the key.
    """
    key = load_key(key_file)
    try:
        return examine_files(suspect, key, base=base, source=source, options=options, progress=progress)
    except AdapterWithoutBase as error:
        raise AdapterWithoutBase("the suspect is an adapter, which changes a base model; name that one with --base") from error

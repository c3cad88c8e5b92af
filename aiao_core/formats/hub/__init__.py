"""Suspects on the Hugging Face hub: references to them, which of a repository's files is the denoiser, and the download.

Torch-free, and the hub's library is loaded at the first download, so that the API process checks references.
"""

from aiao_core.formats.hub.download import Download, download
from aiao_core.formats.hub.references import MAX_REFERENCE, REFERENCE, Reference, is_reference, parse, without_scheme

__all__ = ["MAX_REFERENCE", "REFERENCE", "Download", "Reference", "download", "is_reference", "parse", "without_scheme"]

"""What is an uploaded file? By its content; its name is the client's word."""

from typing import BinaryIO

from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats.identify import Kind, identify
from service.kit.errors import InvalidArtifact


def kind_of(file: BinaryIO, size: int, filename: str) -> Kind:
    """Return the kind of ``file``, of ``size`` bytes. Raises :class:`InvalidArtifact` for a broken or unknown one."""
    if size == 0:
        raise InvalidArtifact("the upload is empty; send the file as the body of the request")
    try:
        return identify(file, size, filename)
    except InvalidCheckpoint as error:
        raise InvalidArtifact(str(error)) from error

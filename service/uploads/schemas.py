"""What tus carries in headers."""

import base64
import hashlib
import re
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from service.kit.errors import BadRequest
from service.kit.id_patterns import SHA256
from service.kit.schemas import Name

ALGORITHMS = ("sha1", "sha256", "sha512")
"""Of checksums."""


class Metadata(BaseModel):
    """What ``Upload-Metadata`` says of a file; other keys are ignored."""

    filename: Name
    sha256: str | None = Field(None, pattern=SHA256)


def parse_metadata(header: str) -> Metadata:
    """Keys, each with its value in base64, with commas between. Raises :class:`BadRequest`."""
    pairs = [pair.split() for pair in header.split(",") if pair.strip()]
    try:
        values = {pair[0]: base64.b64decode("".join(pair[1:]), validate=True).decode() for pair in pairs if len(pair) <= 2}
        return Metadata.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadRequest(f"Upload-Metadata: {first['loc'][0]}: {first['msg']}; it must name the file") from error
    except ValueError as error:  # of base64, of UTF-8, and for characters that are not of ASCII
        raise BadRequest("Upload-Metadata is not `key base64,key base64`; encode each value of it") from error


class Checksum:
    """What ``Upload-Checksum`` announces of the bytes of one request."""

    def __init__(self, header: str) -> None:
        """Raises :class:`BadRequest`."""
        announced = re.fullmatch(r"(\S+) (\S+)", header)
        if announced is None or announced[1] not in ALGORITHMS:
            raise BadRequest(f"Upload-Checksum is `algorithm base64`, the algorithm one of {', '.join(ALGORITHMS)}")
        self.digest: Any = hashlib.new(announced[1])
        self._expected = announced[2]

    def holds(self) -> bool:
        return base64.b64encode(self.digest.digest()).decode() == self._expected

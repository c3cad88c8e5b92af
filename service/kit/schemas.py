"""Parts that several schemas share."""

from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Depends, Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from service.kit.id_patterns import ANY_ID
from service.kit.ids import pattern

Item = TypeVar("Item")


class Schema(BaseModel):
    """A document of the API, read from a row."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(description="Send it as `cursor` for the next page; null on the last one.")


class Failure(BaseModel):
    """Why a job failed."""

    code: str = Field(examples=["wrong-architecture"], description="A stable slug to program against.")
    detail: str = Field(examples=["layer mid_block.attentions.0.to_q is missing; the checkpoint is incomplete"])


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("only printable characters are allowed")
    return text


SecretKey = Annotated[
    SecretStr | None,
    Field(
        max_length=1000,
        description="The secret key of a model whose `custody` is `owner`; the service forgets it when the job ends.",
    ),
]
Name = Annotated[str, Field(min_length=1, max_length=200, examples=["emoji-v1"]), AfterValidator(_printable)]
Limit = Annotated[int, Query(ge=1, le=200, description="Items on one page.")]
Order = Annotated[Literal["newest", "oldest"], Query(description="Which come first.")]
Cursor = Annotated[str | None, Query(pattern=ANY_ID, description="`next_cursor` of the last page.")]


@dataclass(frozen=True)
class Paging:
    """Which page of a list is asked for, the same on every list."""

    limit: int = 50
    cursor: str | None = None
    order: Literal["newest", "oldest"] = "newest"


async def get_paging(limit: Limit = 50, cursor: Cursor = None, order: Order = "newest") -> Paging:
    return Paging(limit, cursor, order)


PageQuery = Annotated[Paging, Depends(get_paging)]


def one_of(first: str, second: str) -> dict[str, Any]:
    """The JSON Schema of an object in which one of two fields is given, and the other left out or null.

    By ``not``, for generators of clients make several types of a ``oneOf``, and lose the other fields.
    """
    given, null = {"not": {"type": "null"}}, {"type": "null"}
    both = {"required": [first, second], "properties": {first: given, second: given}}
    neither = {"properties": {first: null, second: null}}
    return {"not": {"anyOf": [both, neither]}}


def header(kind: str, description: str, *, required: bool = True) -> dict[str, Any]:
    """The OpenAPI description of a header of an answer."""
    return {"description": description, "required": required, "schema": {"type": kind}}


def identifier(prefix: str) -> object:
    """The path parameter of one thing."""
    return Path(pattern=pattern(prefix), examples=[f"{prefix}_01kaw3v0h9m6f0x2e7d8c9b1a5"])


ModelId = Annotated[str, identifier("mdl")]
JobId = Annotated[str, identifier("job")]
AuditId = Annotated[str, identifier("aud")]
VerificationId = Annotated[str, identifier("ver")]
WebhookId = Annotated[str, identifier("whk")]
DeliveryId = Annotated[str, identifier("dlv")]
TokenId = Annotated[str, identifier("tok")]
UploadId = Annotated[str, identifier("upl")]
DirectUploadId = Annotated[str, identifier("mpu")]
ArtifactId = Annotated[str, identifier("art")]

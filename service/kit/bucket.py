"""Multipart uploads in an S3 bucket, whose parts clients send straight to it by URLs that are signed here.

By boto3, because obstore signs no URLs of parts: ``pip install 'aiao-server[aws]'``.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.util import find_spec
from os import environ
from typing import Any

from obstore.store import S3Store

from service.kit.credentials import Credentials
from service.kit.errors import InvalidParts, NotReady
from service.kit.storage import Storage

logger = logging.getLogger(__name__)

NOWHERE = "none"
"""The endpoint that turns direct uploads off."""

MAX_PARTS = 1000
"""Parts of an upload at most: S3 lists so many in one answer. It would take ten times as many."""

URL_LIFETIME = timedelta(hours=1)


@dataclass(frozen=True)
class Part:
    """A part that is in the bucket."""

    size: int
    etag: str
    """Without quotes."""


class Bucket:
    """The bucket behind a storage. Region, and credentials that are not given, are found as boto3 finds them."""

    def __init__(self, store: S3Store, endpoint: str, credentials: Credentials) -> None:
        import boto3
        from botocore.config import Config

        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},  # as obstore
            request_checksum_calculation="when_required",  # not every S3 knows the newer ones
            connect_timeout=10,
            retries={"total_max_attempts": 3},
        )
        # obstore takes both of each pair, boto3 the second of each alone.
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        inside = environ.get("AWS_ENDPOINT") or environ.get("AWS_ENDPOINT_URL")
        session = boto3.Session(region_name=region, **credentials.of("aws"))
        self._s3 = session.client("s3", config=config, endpoint_url=inside)
        self._signer = session.client("s3", config=config, endpoint_url=endpoint) if endpoint else self._s3
        self._name, self._prefix = store.config["bucket"], f"{store.prefix}/" if store.prefix else ""

    @classmethod
    def of(cls, storage: Storage, endpoint: str, credentials: Credentials) -> "Bucket | None":
        """Open the bucket behind ``storage``, which clients reach at ``endpoint``; empty: where the service does.

        None if there are no direct uploads: the storage is not S3, boto3 is not installed, or the operator turned them off.
        """
        store = storage.store
        if isinstance(store, S3Store) and endpoint != NOWHERE and find_spec("boto3"):
            return cls(store, endpoint, credentials)
        return None

    def begin(self, key: str) -> str:
        """Begin an object. Return the identifier of its multipart upload."""
        return str(self._ask("create_multipart_upload", key)["UploadId"])

    def sign(self, key: str, multipart_id: str, number: int, size: int) -> str:
        """Return where a client may put one part for a while. Its length is signed too: the bucket takes no other."""
        place = {"Bucket": self._name, "Key": self._prefix + key, "UploadId": multipart_id}
        with _errors():
            return str(
                self._signer.generate_presigned_url(
                    "upload_part",
                    place | {"PartNumber": number, "ContentLength": size},
                    ExpiresIn=int(URL_LIFETIME.total_seconds()),
                )
            )

    def parts(self, key: str, multipart_id: str) -> dict[int, Part]:
        """Return the parts that have come in, by number. Raise FileNotFoundError if there is no such multipart upload."""
        listed = self._ask("list_parts", key, UploadId=multipart_id, MaxParts=MAX_PARTS).get("Parts", ())
        return {each["PartNumber"]: Part(each["Size"], each["ETag"].strip('"')) for each in listed}

    def complete(self, key: str, multipart_id: str, parts: Mapping[int, Part]) -> None:
        """Make the object of its parts. Raise FileNotFoundError, and :class:`InvalidParts` if one has changed meanwhile."""
        named = [{"PartNumber": number, "ETag": f'"{part.etag}"'} for number, part in sorted(parts.items())]
        self._ask("complete_multipart_upload", key, UploadId=multipart_id, MultipartUpload={"Parts": named})

    def abort(self, key: str, multipart_id: str) -> None:
        """Delete the parts of an object, unless it was completed."""
        with suppress(FileNotFoundError):
            self._ask("abort_multipart_upload", key, UploadId=multipart_id)

    def unfinished(self, folder: str, before: datetime) -> Iterator[tuple[str, str]]:
        """Yield key and multipart upload of the objects in ``folder`` that a client or obstore began and did not complete."""
        with _errors():
            pages = self._s3.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._name, Prefix=f"{self._prefix}{folder}/"):
                for each in page.get("Uploads", ()):
                    if each["Initiated"] < before:
                        yield each["Key"].removeprefix(self._prefix), each["UploadId"]

    def _ask(self, call: str, key: str, **arguments: Any) -> dict[str, Any]:
        with _errors():
            answer: dict[str, Any] = getattr(self._s3, call)(Bucket=self._name, Key=self._prefix + key, **arguments)
        return answer


@contextmanager
def _errors() -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code == "NoSuchUpload":
            raise FileNotFoundError("there is no such multipart upload") from error
        if code == "InvalidPart":
            raise InvalidParts("a part has changed meanwhile; name the parts once more") from error
        if status >= 500:
            raise NotReady(f"the storage does not answer (status {status}); try again in a moment") from error
        logger.error("the bucket refuses the service: %s", error)
        raise NotReady(f"the storage refuses the service ({code}); its operator must allow it") from error
    except BotoCoreError as error:
        raise NotReady(f"the storage does not answer ({type(error).__name__}); try again in a moment") from error

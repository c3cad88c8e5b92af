"""Verifications as the API shows them."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from aiao_core.errors import InvalidReference
from aiao_core.formats.hub import MAX_REFERENCE, REFERENCE, parse
from aiao_core.options import VerificationOptions
from aiao_core.reports.summary import Summary
from aiao_core.reports.verdicts import Tested, Verdict
from service.jobs.schemas import JobOut, JobState
from service.kit.ids import pattern
from service.kit.schemas import Failure, Schema, SecretKey, one_of


def _a_verdict(options: VerificationOptions) -> VerificationOptions:
    """Refuse what would make the test another one than every verdict's."""
    if reasons := options.departures():
        raise ValueError("; ".join(reasons))
    return options


def _parsed(reference: str) -> str:
    """Return the reference in the form ``hf://…``; say what is wrong with another."""
    try:
        return str(parse(reference))
    except InvalidReference as error:
        raise ValueError(str(error)) from error


HubReference = Annotated[
    str,
    AfterValidator(_parsed),
    WithJsonSchema({"type": "string", "maxLength": MAX_REFERENCE, "pattern": REFERENCE}),
]
"""Its pattern is for the document; the parser says in words what another one lacks."""


class VerificationIn(BaseModel):
    """Which suspect to test against which model."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"model_id": "mdl_01kaw3v0h9m6f0x2e7d8c9b1a5", "artifact_id": "art_01kaw4r7c2n8p5q0s6t1v3w9x4"},
                {"model_id": "mdl_01kaw3v0h9m6f0x2e7d8c9b1a5", "hub": "hf://owner/name@main/file.safetensors"},
            ]
        }
        | one_of("artifact_id", "hub"),
    )

    model_id: str = Field(pattern=pattern("mdl"))
    artifact_id: str | None = Field(
        None, pattern=pattern("art"), description="The suspect: a pipeline folder, .safetensors, .ckpt, GGUF file or adapter."
    )
    hub: HubReference | None = Field(
        None,
        description="The suspect in place of `artifact_id`: a model in a public repository of the Hugging Face hub, "
        "`hf://owner/name`, where needed with `@revision`, `/folder/file` and `?variant=fp16`; or the address of its page.",
    )
    base_artifact_id: str | None = Field(
        None,
        pattern=pattern("art"),
        description="The model that a LoRA adapter was made for. An adapter without it is refused, unless its archive holds "
        "the base too. The base is tested first: if it carries the mark, nothing is said of the adapter.",
    )
    secret_key: SecretKey = None
    options: Annotated[VerificationOptions, AfterValidator(_a_verdict)] = Field(
        VerificationOptions(),
        description="Those of every verdict; others are refused. A stricter `max_log10_p` is for a token with the scope "
        "`models:write`, or for one that sends the key's secret.",
    )

    @model_validator(mode="after")
    def _one_suspect(self) -> "VerificationIn":
        if (self.artifact_id is None) == (self.hub is None):
            raise ValueError("name the suspect by either artifact_id or hub")
        return self


class VerificationOut(Schema):
    """One test of a suspect."""

    id: str = Field(examples=["ver_01kaw3v0h9m6f0x2e7d8c9b1a5"])
    model_id: str
    artifact_id: str | None = Field(description="Null for a suspect on the hub.")
    hub: str | None = Field(examples=["hf://owner/name@main"], description="The reference to the hub.")
    base_artifact_id: str | None
    suspect_name: str = Field(
        description="Of one on the hub, once it has been tested: with the commit, and with the file if it is one."
    )
    suspect_sha256: str | None = Field(description="Of one on the hub: of what was fetched; null until then.")
    options: VerificationOptions
    status: JobState
    verdict: Verdict | None = Field(
        description="Null until the job is done. `base-marked`: an adapter's base carries the mark, and nothing is said of the "
        "adapter; `invalid`: a control voids the test; `exploratory`: never by this service."
    )
    reason: str | None = Field(description="Why a test is `invalid`.")
    tested: Tested | None = Field(
        description="What the verdict is of: the checkpoint, the adapter on its base, or the base alone."
    )
    base_name: str | None = Field(description="Of an adapter's base, once it has been tested.")
    bound_log10_p: float | None = Field(
        examples=[-38.53],
        description="log10 of a coarse bound of the p-value: 2^-128 or 2^-64; null above both.",
    )
    with_key: int | None = Field(description="It is the n-th test with this key.")
    of_file: int | None = Field(description="It is the n-th test of these weights by this tenant.")
    key_version: int | None = Field(
        description="Of the key. The signs of keys before version 3 can be read out of published weights, and the mark removed "
        "or planted: renew such a model. Null until there is a verdict, and of older tests, whose keys are of version 1 or 2."
    )
    log10_p: float | None = Field(
        examples=[-153.2],
        description="log10 of the p-value of the exact test. Like the rates it is for tokens with the scope `models:write`, "
        "and for the token that submitted the suspect with the key's secret; others see null.",
    )
    vs_rate: float | None
    rs_rate: float | None
    job_id: str
    error: Failure | None
    created_at: datetime

    def coarse(self) -> "VerificationOut":
        """The same without the figures that only the key's owner and its holder see."""
        return self.model_copy(update={"log10_p": None, "vs_rate": None, "rs_rate": None})


class ReportSummary(Summary):
    """A report without the figures that tell of the key."""  # a name of its own: audits have a `Summary` in the document


class Submitted(BaseModel):
    """A verification and its job."""

    verification: VerificationOut
    job: JobOut

"""The form of texts: as a regular expression for the OpenAPI document, and in words for a client that sends another."""

from service.kit.ids import LENGTH, pattern

SHA256 = "^[0-9a-f]{64}$"
ANY_ID = f"^[a-z]{{3}}_[0-9a-z]{{{LENGTH}}}$"
IDEMPOTENCY_KEY = r"^[\x21-\x7e]{1,200}$"

KINDS = {
    "art": "an artifact",
    "aud": "an audit",
    "dlv": "a webhook's delivery",
    "job": "a job",
    "mdl": "a model",
    "mpu": "a direct upload",
    "tok": "a token",
    "upl": "an upload",
    "ver": "a verification",
    "whk": "a webhook",
}

IN_WORDS = {
    pattern(prefix): f"the identifier of {kind} is {prefix}_ and {LENGTH} digits and small letters"
    for prefix, kind in KINDS.items()
} | {
    SHA256: "a SHA-256 digest is 64 hexadecimal digits in lower case",
    ANY_ID: f"an identifier is three letters, _, and {LENGTH} digits and small letters",
    IDEMPOTENCY_KEY: "send 1 to 200 visible ASCII characters, without blanks",
}

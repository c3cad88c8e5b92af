"""Keys as the API shows them: their public part."""

from datetime import datetime

from aiao_core.key import PublicKey


class PublicKeyOut(PublicKey):
    """What may be known about a key: its commitment, layers and subpaths, and how many bits the test compares."""

    model_id: str
    created_at: datetime

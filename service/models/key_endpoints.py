"""HTTP calls for the keys of models."""

from fastapi import APIRouter, Response

from service.auth.dependencies import CallerFirst, ContextDep, ModelWriter, Reader
from service.idempotency import IdempotentJson
from service.keys.repository import KeyRepository
from service.keys.schemas import KeyOpened, PublicKeyOut
from service.kit.errors import Conflict, responses
from service.kit.etags import PreconditionDep, conditional, weak
from service.kit.schemas import ModelId
from service.models import service
from service.models.repository import ModelRepository

router = APIRouter(prefix="/v1/models", tags=["keys"], route_class=CallerFirst)


@router.get(
    "/{model_id}/key",
    operation_id="keys_show",
    summary="Show the public key",
    responses=conditional() | responses(401, 404, 409, 422),
)
def show_key(model_id: ModelId, context: ContextDep, caller: Reader, precondition: PreconditionDep) -> PublicKeyOut:
    """The public part of a model's key. With the secret it makes the whole key again, for `aiao verify --offline`."""
    with context.database.read_session() as session:
        model = ModelRepository(session, caller.tenant_id).get(model_id)
        key = KeyRepository(session, caller.tenant_id).of_model(model_id)
        if key.public_key is None:
            raise Conflict(f"the key of {model_id} is not complete: the model is {model.status}; follow {model.job_id}")
        precondition.check(weak(key.id, str(key.opened_at)))
        times = {"created_at": key.created_at, "opened_at": key.opened_at}
        return PublicKeyOut.model_validate(key.public_key | {"model_id": model_id} | times)


@router.post(
    "/{model_id}/key/opened",
    operation_id="keys_opened",
    summary="Note that a key was opened",
    response_model=KeyOpened,
    responses=responses(401, 403, 404, 409, 413, 422),
)
def open_key(model_id: ModelId, context: ContextDep, caller: ModelWriter, idempotency: IdempotentJson) -> Response:
    """After a dispute in which others saw the key: models can be made with it now, so it takes no more tests.

    Reports of before stand. It cannot be undone.
    """
    with context.database.session() as session:
        if replay := idempotency.replay(session):
            return replay
        key = KeyOpened.model_validate(service.open_key(session, caller.tenant_id, caller.token_id, model_id))
        idempotency.remember(session, 200, key.model_dump(mode="json"), {})
    return Response(key.model_dump_json(), media_type="application/json")

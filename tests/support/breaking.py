"""Which changes of the OpenAPI document break a client that was written against the older one?"""

from collections.abc import Iterator
from typing import Any

METHODS = ("get", "post", "put", "patch", "delete", "head", "options")
Document = dict[str, Any]


def breaking(old: Document, new: Document) -> list[str]:
    """One sentence for each."""
    return [*_breaking(old, new), *_types(old, new)]


def _breaking(old: Document, new: Document) -> Iterator[str]:
    for path, item in old["paths"].items():
        for method in (name for name in item if name in METHODS):
            call = f"{method.upper()} {path}"
            if method not in new["paths"].get(path, {}):
                yield f"{call} is gone"
                continue
            was, now = item[method], new["paths"][path][method]
            if was["operationId"] != now["operationId"]:
                yield f"{call} is named {now['operationId']} now, in clients that are made of the document"
            yield from _parameters(call, was, now, old, new)
            yield from _body(call, was, now, old, new)
            for status in was["responses"]:
                if status.startswith("2"):
                    yield from _response(f"{call} {status}", was, now, status, old, new)


def _types(old: Document, new: Document) -> Iterator[str]:
    """Clients that are made of the document have a class for each schema."""
    for name in sorted(old["components"]["schemas"].keys() - new["components"]["schemas"].keys()):
        yield f"the type {name} is gone, or has another name"


def _parameters(call: str, was: Document, now: Document, old: Document, new: Document) -> Iterator[str]:
    before = {(each["in"], each["name"]): each for each in was.get("parameters", [])}
    after = {(each["in"], each["name"]): each for each in now.get("parameters", [])}
    for place, name in before.keys() - after.keys():
        yield f"{call}: the {place} parameter {name} is gone"
    for key, parameter in after.items():
        if parameter.get("required") and not before.get(key, {}).get("required"):
            yield f"{call}: the {key[0]} parameter {key[1]} is required now"
        if key in before:
            yield from _accepts(f"{call} {key[1]}", before[key].get("schema", {}), parameter.get("schema", {}), old, new)


def _body(call: str, was: Document, now: Document, old: Document, new: Document) -> Iterator[str]:
    before, after = (each.get("requestBody", {}).get("content", {}) for each in (was, now))
    for kind in before:
        if kind not in after:
            yield f"{call}: no body of {kind} any more"
        else:
            yield from _accepts(call, before[kind].get("schema", {}), after[kind].get("schema", {}), old, new)


def _response(call: str, was: Document, now: Document, status: str, old: Document, new: Document) -> Iterator[str]:
    if status not in now["responses"]:
        yield f"{call} is gone"
        return
    before, after = (each["responses"][status].get("content", {}) for each in (was, now))
    for kind in before:
        if kind not in after:
            yield f"{call}: no answer of {kind} any more"
        else:
            yield from _gives(call, before[kind].get("schema", {}), after[kind].get("schema", {}), old, new)


def _accepts(where: str, old_schema: Document, new_schema: Document, old: Document, new: Document) -> Iterator[str]:
    """What was good input must stay so."""
    before, after = _resolved(old_schema, old), _resolved(new_schema, new)
    for name in set(after.get("required", [])) - set(before.get("required", [])):
        yield f"{where}: {name} is required now"
    for name, schema in before.get("properties", {}).items():
        if name not in after.get("properties", {}):
            yield f"{where}: {name} is not taken any more"
        else:
            yield from _accepts(f"{where}.{name}", schema, after["properties"][name], old, new)
    if gone := _values(before) - _values(after) if _values(after) else set():
        yield f"{where}: {', '.join(sorted(gone))} is not taken any more"
    for limit, tightened in (("maximum", -1), ("maxLength", -1), ("minimum", 1), ("minLength", 1)):
        if limit in after and (limit not in before or (after[limit] - before[limit]) * tightened > 0):
            yield f"{where}: {limit} is {after[limit]} now"


def _gives(where: str, old_schema: Document, new_schema: Document, old: Document, new: Document) -> Iterator[str]:
    """What an answer held must stay there, and be of its kind."""
    before, after = _resolved(old_schema, old), _resolved(new_schema, new)
    if _may_be_null(new_schema) and not _may_be_null(old_schema):
        yield f"{where}: may be null now"
    if (was := before.get("type")) and was != after.get("type"):
        yield f"{where}: is a {after.get('type')} and no {was} any more"
    for name, schema in before.get("properties", {}).items():
        if name not in after.get("properties", {}):
            yield f"{where}: {name} is gone"
        else:
            yield from _gives(f"{where}.{name}", schema, after["properties"][name], old, new)
    if "items" in before and "items" in after:
        yield from _gives(f"{where}[]", before["items"], after["items"], old, new)
    if added := _values(after) - _values(before) if _values(before) else set():
        yield f"{where}: may be {', '.join(sorted(added))} now"


def _resolved(schema: Document, document: Document) -> Document:
    """What a reference means, and what a value is that may also be null."""
    while "$ref" in schema or len(_not_null(schema)) == 1:
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        else:
            (schema,) = _not_null(schema)
    return schema


def _not_null(schema: Document) -> list[Document]:
    return [each for each in schema.get("anyOf", []) if each.get("type") != "null"]


def _may_be_null(schema: Document) -> bool:
    return len(_not_null(schema)) < len(schema.get("anyOf", []))


def _values(schema: Document) -> set[str]:
    return {str(value) for value in [*schema.get("enum", []), *([schema["const"]] if "const" in schema else [])]}

"""What the query of a path asks: a request, or a load."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams

from unicuco_plugin.errors import clip, quoted
from unicuco_plugin.quantities import LoadFields
from unicuco_plugin.request import Request

__all__ = ["LoadQuery", "describe_query", "read_load", "read_wish"]

_Model = TypeVar("_Model", bound=BaseModel)


class LoadQuery(LoadFields):
    """The load of a front.

    Attributes:
        cost: Whose front: the best under limits on memory, latency or time, where these are not the best by weights.
    """

    cost: Literal["memory", "latency", "time"] | None = None


def read_wish(query: QueryParams) -> Request:
    """Read ``sparsity=0.25`` as the command line reads it.

    Raises:
        RequestValidationError: If it is no request.
    """
    fields = {name: tuple(text.split(",")) if "," in text else text for name, text in _once(query).items()}
    return _read(Request, fields)


def read_load(query: QueryParams) -> LoadQuery:
    """Read ``context=8192&batch=8``.

    Raises:
        RequestValidationError: If it is no load.
    """
    return _read(LoadQuery, _once(query))


def describe_query(model: type[BaseModel]) -> list[dict[str, Any]]:
    """A model's fields as OpenAPI has parameters of a query."""
    return [
        {"name": name, "in": "query", "required": False, "explode": False, "schema": field}
        for name, field in model.model_json_schema()["properties"].items()
    ]


def _read(model: type[_Model], fields: Mapping[str, object]) -> _Model:
    try:
        return model(**fields)
    except ValidationError as error:
        told = [{**entry, "loc": ("query", *entry["loc"])} for entry in error.errors()]
        raise RequestValidationError(told) from error


def _once(query: QueryParams) -> dict[str, str]:
    """The fields of a query, none of them given twice, told as pydantic tells it."""
    fields = dict(query)
    if len(fields) == len(query.multi_items()):
        return fields
    field, values = next((name, values) for name in query if len(values := query.getlist(name)) > 1)
    text = f"{clip(field)} must be given once; write two numbers as preference=0.3,0.7, got {quoted(values)}"
    raise RequestValidationError([{"type": "value_error", "loc": ("query", field), "msg": text, "input": values}])

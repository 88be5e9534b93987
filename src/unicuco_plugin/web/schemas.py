"""What clients send and get, as OpenAPI describes it; a request is the command line's own."""

from typing import Annotated, Any

from fastapi import Body
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from unicuco_plugin.request import Request

__all__ = ["EXAMPLES", "MOST_REQUESTS", "Ask", "AskBody", "Problem"]

MOST_REQUESTS = 256  # in one body
_LONGEST_NAME = 255


class Ask(BaseModel):
    """One request to one profile.

    Attributes:
        profile: Its name, as ``GET /v1/profiles`` lists it; may be left out where only one is served.
        request: What is asked of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: Annotated[str, Field(max_length=_LONGEST_NAME)] | None = None
    request: Request


class Problem(BaseModel):
    """An error, ``application/problem+json`` (RFC 9457).

    Attributes:
        type: Identifies the kind of problem.
        title: The same in words.
        status: HTTP's number.
        detail: One line: the field, the rule, the value and what to do.
        code: The kind, for programs.
        field: The request's field that is wrong.
        rule: What holds of it.
        value: What was sent, as text of at most 60 characters.
        offers: What can be asked of the profile, from where to where.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    rule: str | None = None
    value: str | None = None
    offers: dict[str, Any] | None = None


EXAMPLES: dict[str, Any] = {
    "one": {
        "summary": "One request",
        "value": {"profile": "smollm2-135m-instruct-depth", "request": {"sparsity": 0.25}},
    },
    "several": {
        "summary": "Several requests, also of several profiles",
        "value": [
            {"profile": "smollm2-135m-instruct-depth", "request": {"max_bytes": 200000000}},
            {"profile": "smollm2-135m-instruct-precision", "request": {"bits": 4.5}},
            {"profile": "smollm2-135m-instruct-sparsity", "request": {"max_divergence": 0.5}},
        ],
    },
}

_One = Annotated[Ask, Tag("one")]
_Several = Annotated[Annotated[list[Ask], Field(min_length=1, max_length=MOST_REQUESTS)], Tag("several")]
AskBody = Annotated[
    _One | _Several,
    Discriminator(lambda value: "several" if isinstance(value, list) else "one"),
    Body(openapi_examples=EXAMPLES),
]

"""Errors as problem+json: what is wrong, and never how our code came to know."""

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from unicuco_plugin.errors import ProfileError, UnicucoError, explain_entries, quoted
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.web.answers import BusyError
from unicuco_plugin.web.library import Served
from unicuco_plugin.web.schemas import Problem

__all__ = ["describe", "problem_response", "refusal", "register_handlers"]

_LOG = logging.getLogger("unicuco_plugin.web")
_RULE_ENDS = re.compile(r"[,;] got |; |: (?=give |with )")


def describe(status: int, code: str, detail: str, **more: Any) -> Problem:  # noqa: ANN401 - fields of a problem
    """A problem of one kind; its rule is what its one line says before the value, and before what to do."""
    if more.get("field") is not None:
        more.setdefault("rule", _RULE_ENDS.split(detail, 1)[0])
    title = code.replace("-", " ")
    return Problem(type=f"urn:unicuco:problem:{code}", title=title, status=status, detail=detail, code=code, **more)


def refusal(error: UnicucoError, asked: Mapping[str, Any], served: Served) -> Problem:
    """Why a profile cannot meet what fields ask, and what it can."""
    offers = {field: offer.to_dict() for field, offer in served.offers.items()}
    # It begins with the limit that cannot be met; others that it names could be given up, or asked for instead.
    rule = _RULE_ENDS.split(str(error), 1)[0]
    named = [(found.start(), name) for name in asked if (found := re.search(rf"\b{name}\b", rule))]
    field = min(named)[1] if named else next(iter(asked))
    return describe(422, "cannot-be-met", str(error), field=field, value=quoted(asked[field]), offers=offers)


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that tells it."""
    text = json_text(problem.model_dump(mode="json", exclude_none=True), ascii_only=True)
    return Response(text, problem.status, headers, "application/problem+json")


def register_handlers(app: FastAPI) -> None:
    """Have an application tell every error so."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        entries = [_shown(entry) for entry in error.errors()]
        first = entries[0]
        if first["type"] == "json_invalid":
            told = str(first.get("ctx", {}).get("error", "it cannot be read"))
            return problem_response(describe(400, "not-json", f"body must be JSON: {told[:160]}"))
        field = ".".join(map(str, first["loc"]))[:120]
        return problem_response(
            describe(422, "invalid-request", explain_entries(entries), field=field, value=quoted(first["input"]))
        )

    @app.exception_handler(ProfileError)
    async def unknown(_request: Request, error: ProfileError) -> Response:
        return problem_response(describe(404, "unknown-profile", str(error), field="profile"))

    @app.exception_handler(UnicucoError)
    async def refused(_request: Request, error: UnicucoError) -> Response:
        return problem_response(describe(422, "invalid-request", str(error)))

    @app.exception_handler(BusyError)
    async def busy(_request: Request, error: BusyError) -> Response:
        return problem_response(describe(503, "busy", str(error)), {"Retry-After": "5"})

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> Response:
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        return problem_response(describe(error.status_code, code, str(error.detail)[:300]), error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        _LOG.error("%s %s failed", request.method, request.url.path[:200], exc_info=error)
        return problem_response(describe(500, "internal-error", "the service failed on this request; its log says why"))


def _shown(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry whose place is that within the request: ``body``, and which of two forms it has, say nothing."""
    place = [part for part in entry["loc"] if part not in ("body", "one", "several", "query")]
    return {"input": None, **entry, "loc": tuple(place) or entry["loc"][:1]}

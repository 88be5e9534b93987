"""The service's routes."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response

from unicuco_plugin.errors import RequestError, UnicucoError
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.request import Request as Wish
from unicuco_plugin.strategy import SCHEMA, Strategy
from unicuco_plugin.web.answers import Answers
from unicuco_plugin.web.bounds import App, Bounds
from unicuco_plugin.web.carrying import all_templates, write_recipe
from unicuco_plugin.web.library import Library, Served
from unicuco_plugin.web.loads import Fronts
from unicuco_plugin.web.metrics import Metrics
from unicuco_plugin.web.page import Page
from unicuco_plugin.web.problems import problem_response, refusal, register_handlers
from unicuco_plugin.web.queries import LoadQuery, describe_query, read_load, read_wish
from unicuco_plugin.web.schemas import Ask, AskBody, Problem

__all__ = ["Service", "make_app"]

_LOG = logging.getLogger("unicuco_plugin.web")
_EVERY = 1.0  # seconds between two looks at the profiles' files
_VERSION = "1"  # of the paths and what they take
_SENT: dict[str, Any] = {"application/json": {}}
_FAULTS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "content": {"application/problem+json": {}}, "description": text}
    for code, text in {
        400: "No JSON", 401: "No token", 404: "No such profile", 408: "Too slow", 413: "Too large",
        422: "No request, or one that cannot be met; what can is said", 503: "Too busy",
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class Service:
    """What to serve.

    Attributes:
        sources: See :class:`Library`.
        token_env: The environment variable that holds the token; None where clients need none.
        device_table: Times of a device, for the profiles of its model.
    """

    sources: tuple[str | Path, ...]
    token_env: str | None = None
    device_table: Path | None = None

    def __call__(self) -> App:
        """The application; a worker is given this object and calls it."""
        token = os.environ[self.token_env] if self.token_env else None
        return make_app(self.sources, token=token, device_table=self.device_table)


def make_app(sources: Sequence[str | Path], *, token: str | None = None, device_table: Path | None = None) -> App:
    """An ASGI application that answers from profiles.

    Raises:
        ProfileError, DeviceTableError: If one cannot be read, or the table.
    """
    metrics = Metrics()
    library = Library(sources, metrics.read, device_table)
    answers = Answers(metrics.answered, metrics.waiting)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_watch(library, answers))
        yield
        task.cancel()
        answers.thread.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="unicuco",
        summary="Answers compression requests from trained profiles.",
        version=_VERSION,
        lifespan=lifespan,
        docs_url=None,  # its page would come from another host
        redoc_url=None,
    )
    register_handlers(app)
    _add_routes(app, library, answers, metrics)
    return Bounds(app, token, metrics.request)


async def _watch(library: Library, answers: Answers) -> None:
    """Look at the profiles' files now and then, in the thread that answers: nothing is answered in between."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_EVERY)
        try:
            await loop.run_in_executor(answers.thread, library.refresh)
        except Exception:  # the service goes on with what it has
            _LOG.exception("profiles could not be looked at")


def _add_routes(app: FastAPI, library: Library, answers: Answers, metrics: Metrics) -> None:
    page, fronts = Page(), Fronts(answers)

    @app.post(
        "/v1/strategies",
        response_class=Response,
        responses={200: {"model": Strategy | list[Strategy | Problem], "content": _SENT}, **_FAULTS},
    )
    async def strategies(body: AskBody) -> Response:
        """Answer one request with a strategy; or each of a list with a strategy, or a problem in its place."""
        if isinstance(body, Ask):
            served = library.find(body.profile)
            [answer] = await answers.ask(served, [body.request])
            if answer.error is not None:
                return problem_response(refusal(answer.error, body.request.to_dict(), served))
            return _json(answer.text)
        return _json(f"[{','.join(await _ask_all(body, library, answers))}]")

    @app.get("/v1/profiles", response_class=Response, responses={200: {"content": _SENT}, 401: _FAULTS[401]})
    async def profiles() -> Response:
        """All profiles, and what each can be asked."""
        listed = [
            (about := served.describe()) | all_templates(served.profile.space, served.name, times=about["latency"])
            for served in library.served.values()
        ]
        return _json(json_text({"schema": SCHEMA, "profiles": listed}))

    @app.get(
        "/v1/profiles/{name}/front",
        response_class=Response,
        responses={200: {"content": _SENT}, **_FAULTS},
        openapi_extra={"parameters": describe_query(LoadQuery)},
    )
    async def front(name: str, request: Request) -> Response:
        """The best strategy of a profile at each of its budgets, with its interval; under a load with its memory."""
        served, query = library.find(name), read_load(request.query_params)
        if query.load is None:
            return _json(served.to_front())
        try:
            return _json(await fronts.text(served, query.load, query.cost or ""))
        except RequestError as error:
            return problem_response(refusal(error, query.model_dump(exclude_unset=True), served))

    @app.get(
        "/v1/profiles/{name}/recipe",
        response_class=Response,
        responses={200: {"content": {"application/yaml": {}}}, **_FAULTS},
        openapi_extra={"parameters": describe_query(Wish)},
    )
    async def recipe(name: str, request: Request) -> Response:
        """The recipe that carries out the answer to a request, given as a query: ``?sparsity=0.25``."""
        served, wish = library.find(name), read_wish(request.query_params)
        [answer] = await answers.ask(served, [wish])
        if answer.error is not None:
            return problem_response(refusal(answer.error, wish.to_dict(), served))
        strategy = Strategy.model_validate_json(answer.text)
        return Response(write_recipe(strategy, served.name), media_type="application/yaml")

    @app.get("/healthz", response_class=Response, responses={200: {"content": _SENT}})
    async def healthz() -> Response:
        """Whether the service lives, and how many profiles it has."""
        return _json(json_text({"status": "ok", "profiles": len(library.served)}))

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def told() -> Response:
        """Counts and times for Prometheus."""
        return Response(metrics.to_text(), media_type=metrics.content_type)

    @app.get("/", include_in_schema=False)
    async def show() -> Response:
        return Response(
            page.text, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": page.policy}
        )


async def _ask_all(asks: Sequence[Ask], library: Library, answers: Answers) -> list[str]:
    """Answer requests to several profiles, in order, as texts of JSON."""
    by: dict[Served, list[int]] = {}
    for place, ask in enumerate(asks):
        by.setdefault(library.find(ask.profile), []).append(place)
    asked = [answers.ask(served, [asks[place].request for place in places]) for served, places in by.items()]
    texts = [""] * len(asks)
    for (served, places), found in zip(by.items(), await asyncio.gather(*asked), strict=True):
        for place, answer in zip(places, found, strict=True):
            texts[place] = answer.text or _told(answer.error, asks[place].request, served)
    return texts


def _told(error: UnicucoError | None, wish: Wish, served: Served) -> str:
    problem = refusal(error or RequestError("no answer"), wish.to_dict(), served)
    return json_text(problem.model_dump(mode="json", exclude_none=True))


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")

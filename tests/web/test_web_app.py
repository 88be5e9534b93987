"""What the service answers is the command line's answer; every error is a problem that says what to do."""

import asyncio
import base64
import hashlib
import json
import re

import pytest
from asgi import BITS, DEPTH, Client

from unicuco_plugin.answering import load_profile
from unicuco_plugin.request import KINDS, Request
from unicuco_plugin.web import bounds
from unicuco_plugin.web.app import Service, make_app
from unicuco_plugin.web.bounds import MOST_BYTES, Bounds
from unicuco_plugin.web.schemas import EXAMPLES, MOST_REQUESTS

ASKED = [
    (DEPTH, {"sparsity": 0.25}), (DEPTH, {"max_bytes": "200MB"}), (DEPTH, {"preference": [1, 3]}),
    (BITS, {"bits": 4.3}), (BITS, {"max_divergence": 0.1}),
]  # fmt: skip


def ask(profile, **request):
    return {"profile": profile, "request": request}


@pytest.mark.parametrize(("profile", "request_data"), ASKED)
def test_one_request_gets_the_line_that_the_command_prints(service, profile, request_data):
    got = service.ask({"profile": profile, "request": request_data})
    assert got.status_code == 200
    assert got.text == load_profile(profile).answer(**request_data).to_json()


def test_a_list_gets_a_list_with_problems_in_the_place_of_what_cannot_be_met(service):
    bodies = [{"profile": profile, "request": request} for profile, request in ASKED]
    got = service.ask([*bodies, ask(DEPTH, max_bytes=5), *bodies[:1]])
    lines = [service.ask(body).json() for body in bodies]
    assert got.status_code == 200
    assert got.json()[:5] == lines
    assert got.json()[6] == lines[0]
    assert got.json()[5]["code"] == "cannot-be-met"


@pytest.mark.parametrize("profile", [DEPTH, BITS])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_offered_can_be_asked_and_nothing_else(service, offers, profile, kind):
    if kind in offers[profile]:
        low, high = offers[profile][kind]["low"], offers[profile][kind]["high"]
        for value in [[low, high]] if kind == "preference" else [low, high]:
            assert service.ask(ask(profile, **{kind: value})).status_code == 200
    else:
        problem = service.ask(ask(profile, **{kind: 0.5 if kind == "sparsity" else 5})).json()
        assert re.search("cannot be asked of|needs context", problem["detail"])


@pytest.mark.parametrize(
    ("body", "status", "code", "detail"),
    [
        (b"{", 400, "not-json", "body must be JSON: "),
        (b"[" * 50_000, 400, "bad-request", "There was an error parsing the body"),
        (b"", 422, "invalid-request", "body: Field required"),
        ([], 422, "invalid-request", "body: List should have at least 1 item"),
        (
            [ask(DEPTH, sparsity=0.5)] * (MOST_REQUESTS + 1),
            422,
            "invalid-request",
            "body: List should have at most 256 items",
        ),
        (ask(DEPTH, sparsity=2), 422, "invalid-request", "sparsity must be in (0, 1), got 2.0"),
        (ask(DEPTH, sparsty=0.2), 422, "invalid-request", "unknown field 'request.sparsty'"),
        (ask(DEPTH), 422, "invalid-request", "a request has one or more of"),
        ({**ask(DEPTH, sparsity=0.5), "path": "/etc"}, 422, "invalid-request", "unknown field 'path'"),
        (ask(DEPTH, sparsity=0.99), 422, "cannot-be-met", "sparsity must be at most 0.966666 for this profile"),
        (ask(BITS, max_bytes=5), 422, "cannot-be-met", "max_bytes must be at least 86637858 for this profile"),
        (ask("../../etc", sparsity=0.5), 404, "unknown-profile", f"profile must be one of {DEPTH}, {BITS}, got '../"),
        ({"request": {"sparsity": 0.5}}, 404, "unknown-profile", f"profile must be one of {DEPTH}, {BITS}, got none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_a_problem_with_field_rule_and_value(service, body, status, code, detail):
    got = service.ask(body)
    problem = got.json()
    assert (got.status_code, got.headers["content-type"]) == (status, "application/problem+json")
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["detail"].startswith(detail)
    assert len(problem["detail"]) <= 300
    if status != 400:
        assert {"field", "rule"} <= problem.keys()
    if code == "cannot-be-met":
        assert problem["offers"] and problem["value"] and "\n" not in problem["detail"]


@pytest.mark.parametrize(
    ("request_data", "field", "value", "rule"),
    [
        (
            {"max_bytes": 200000000, "max_divergence": 0.7}, "max_divergence", "0.7",
            "max_divergence 0.7 cannot be met with max_bytes in this profile",
        ),
        (
            {"sparsity": 0.5, "bits": 5}, "bits", "5.0",
            "bits cannot be asked of this profile, which knows kept, params, bytes of a strategy",
        ),
    ],
)  # fmt: skip
def test_of_several_limits_the_one_is_named_that_cannot_be_met(service, request_data, field, value, rule):
    problem = service.ask(ask(DEPTH, **request_data)).json()
    assert (problem["field"], problem["value"], problem["rule"]) == (field, value, rule)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/none", 404), (f"/v1/profiles/{DEPTH}/../x", 404), ("/v1/profiles/%2e%2e%2fetc/front", 404),
        ("/v1/strategies", 405), (f"/v1/profiles/{DEPTH}/recipe", 422),
        (f"/v1/profiles/{DEPTH}/recipe?sparsity=x", 422), ("/?" + "x" * 3000, 414),
        (f"/v1/profiles/{DEPTH}/recipe?sparsity=0.1&sparsity=0.2", 422),
    ],
)  # fmt: skip
def test_a_wrong_path_is_a_problem(service, path, status):
    got = service.get(path)
    assert (got.status_code, got.json()["status"]) == (status, status)


def test_the_front_is_the_profiles(service):
    data = service.get(f"/v1/profiles/{DEPTH}/front").json()
    assert data["front"] == [strategy.to_dict() for strategy in load_profile(DEPTH).front()]
    assert len(data["unit_names"]) == data["units"] == 30


def test_openapi_has_every_field_of_a_request_and_examples_that_hold(service):
    data = service.get("/openapi.json").json()
    own = data["components"]["schemas"]["Request"]["properties"]
    assert set(own) >= set(KINDS)
    assert {"type": "string", "maxLength": 40} in own["max_bytes"]["anyOf"]
    parameters = data["paths"]["/v1/profiles/{name}/recipe"]["get"]["parameters"]
    assert {one["name"] for one in parameters} == {*own, "name"}
    content = data["paths"]["/v1/strategies"]["post"]["requestBody"]["content"]["application/json"]
    assert content["examples"] == EXAMPLES
    asked = [EXAMPLES["one"]["value"], *EXAMPLES["several"]["value"]]
    assert [Request.of(**one["request"]).kind for one in asked] == ["sparsity", "max_bytes", "bits", "max_divergence"]


def test_metrics_count_by_route_and_profile_and_never_by_a_clients_words(service):
    service.ask(ask(DEPTH, sparsity=0.31))
    service.ask(ask(DEPTH, sparsity=0.31))
    service.get("/secret-word")
    text = service.get("/metrics").text
    assert f'unicuco_answers_total{{outcome="kept",profile="{DEPTH}"}}' in text
    assert 'unicuco_http_requests_total{route="/v1/strategies",status="200"}' in text
    assert "secret-word" not in text


def test_the_page_runs_its_own_script_and_asks_its_own_host_only(service):
    got = service.get("/")
    [script] = re.findall(r"<script>(.*?)</script>", got.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = got.headers["content-security-policy"]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "connect-src 'self'" in policy and policy.startswith("default-src 'none'")
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", got.text) == []


def test_a_token_opens_all_but_the_page_and_the_sign_of_life(service, monkeypatch):
    client = Client(Bounds(service.app._app, "tökén\n", lambda *_: None))
    wrong = client.ask(ask(DEPTH, sparsity=0.25))
    assert (wrong.status_code, wrong.json()["code"], wrong.headers["www-authenticate"]) == (401, "no-token", "Bearer")
    for sent, status in [("Bearer tökén", 200), ("bearer  tökén", 200), ("tökén", 401), ("Basic tökén", 401)]:
        assert client.ask(ask(DEPTH, sparsity=0.25), {"Authorization": sent.encode()}).status_code == status
    assert [client.get(path).status_code for path in ("/", "/healthz", "/metrics", "/openapi.json")] == [
        200,
        200,
        401,
        401,
    ]


def test_a_service_reads_its_token_where_it_starts(monkeypatch):
    monkeypatch.setenv("SERVICE_TOKEN", "secret")
    assert Client(Service((DEPTH,), "SERVICE_TOKEN")()).get("/v1/profiles").status_code == 401


def test_a_body_that_is_too_large_is_not_read_on(service):
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(100):
            sent += 2**16
            yield b" " * 2**16

    assert service.ask(b" " * (MOST_BYTES + 1)).status_code == 413
    got = service.send("POST", "/v1/strategies", content=chunks())
    assert (got.status_code, got.json()["code"]) == (413, "body-too-large")


def test_a_body_that_does_not_come_is_given_up(service, monkeypatch):
    monkeypatch.setattr(bounds, "_BODY_SECONDS", 0.01)

    async def never():
        yield b"{"
        await asyncio.sleep(60)

    async def asking():
        sent = []
        messages = iter([{"type": "http.request", "body": b"{", "more_body": True}])

        async def receive():
            return next(messages, None) or await asyncio.sleep(60)

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/strategies", "query_string": b"", "headers": []}
        await service.app(scope, receive, send)
        return sent

    start, body = asyncio.run(asking())
    assert start["status"] == 408
    assert json.loads(body["body"])["code"] == "too-slow"


def test_an_error_of_ours_is_told_without_a_word_of_the_code(monkeypatch, caplog):
    client = Client(make_app([DEPTH]))
    monkeypatch.setattr("unicuco_plugin.web.answers.answer_each", lambda *_: 1 / 0)
    got = client.ask({"request": {"sparsity": 0.25}})
    assert (got.status_code, got.json()["code"]) == (500, "internal-error")
    assert "ZeroDivision" not in got.text
    assert "ZeroDivisionError" in caplog.text

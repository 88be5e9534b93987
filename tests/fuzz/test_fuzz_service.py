"""What strangers send to the service: answers and problems, never an error of ours."""

import asyncio
import json
import string

import pytest
from device_tables import made_table
from judging import fuzz

from unicuco_plugin.answering import load_profile

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
pytest.importorskip("prometheus_client", reason="the extra [serve] is not installed")

NAME = "smollm2-135m-instruct-depth"
VALUES = (
    0, -1, 1, 0.25, 0.5, 1e308, -0.0, 10**30, float("nan"), float("inf"), True, None, "", "6GB", "0x10", "9" * 5000,
    "\ud800", "../../../etc/passwd", [], [0.3, 0.7], [1], {}, {"sparsity": 0.5},
)  # fmt: skip
LOADS = ("context", "batch", "cache_dtype", "phase", "cost")
LOADED = (1, 200, 8192, 10**7, 2, 10**4, "fp8", "decode", "prefill", "memory", "latency", "time")
FIELDS = (
    "sparsity", "max_params", "max_bytes", "max_memory", "max_latency", "min_speedup", "bits", "max_divergence",
    "preference", "profile", "__class__", "", *LOADS,
)  # fmt: skip
PATHS = ("/v1/strategies", "/v1/profiles", f"/v1/profiles/{NAME}/front", f"/v1/profiles/{NAME}/recipe", "/healthz", "/")
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "QUERY")
ASKED = {"profile": NAME, "request": {"sparsity": 0.25}}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    from unicuco_plugin.web.app import make_app

    table = tmp_path_factory.mktemp("device") / "t.json"
    made_table(load_profile(NAME).model.fingerprint).write(table)
    return make_app([NAME], device_table=table)


def draw_value(chance, depth=0):
    if depth < 3 and chance.random() < 0.2:
        return [draw_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if depth < 3 and chance.random() < 0.2:
        return {chance.choice(FIELDS): draw_value(chance, depth + 1) for _ in range(chance.randrange(4))}
    return chance.choice(VALUES)


def draw_load(chance):
    """Fields of a load, most of them with values that may stand there."""
    values = LOADED if chance.random() < 0.8 else VALUES
    return {"context": chance.choice(LOADED[:6])} | {
        chance.choice(LOADS): chance.choice(values) for _ in range(chance.randrange(4))
    }


def draw_query(chance):
    kind = chance.random()
    if kind < 0.4:
        return b""
    fields = draw_load(chance) if kind < 0.7 else {chance.choice(FIELDS): chance.choice(VALUES)}
    return "&".join(f"{name}={value}" for name, value in fields.items()).encode("utf8", "replace")


def draw_body(chance):
    """A request, almost one, or none at all."""
    kind = chance.random()
    if kind < 0.5:
        asked = {chance.choice(FIELDS): chance.choice([draw_value(chance), chance.random()])}
        body = {"profile": NAME, "request": asked | (draw_load(chance) if chance.random() < 0.5 else {})}
        if chance.random() < 0.2:
            body[chance.choice(FIELDS)] = draw_value(chance)
        return json.dumps([body] * chance.randrange(300) if chance.random() < 0.1 else body).encode()
    if kind < 0.7:
        return json.dumps(draw_value(chance)).encode()
    data = bytearray(json.dumps(ASKED).encode())
    if kind < 0.9:
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        return bytes(data[: chance.randrange(len(data) + 1)])
    return chance.choice(
        [b"[" * 10_000, b'{"a":' * 10_000, b" " * 2**18 + b"1", b"\x00\xff" * 100, b'"' + b"x" * 100_000]
    )


def draw_request(chance):
    path = chance.choice(PATHS)
    if chance.random() < 0.3:
        letters = [*string.printable[:-6], "%00", "%2f", "%ff", "..", "/"]
        path = "/" + "".join(chance.choice(letters) for _ in range(chance.randrange(60)))
    query = draw_query(chance)
    method = chance.choice(("POST", "POST", "GET", chance.choice(METHODS)))
    headers = [(b"host", b"localhost"), (b"content-type", chance.choice([b"application/json", b"text/plain", b"\xff"]))]
    if chance.random() < 0.2:
        headers.append(
            (chance.choice([b"authorization", b"content-length", b"expect", b"x" * 500]), bytes(chance.randbytes(9)))
        )
    return path if method != "POST" or chance.random() < 0.3 else PATHS[0], method, query, headers, draw_body(chance)


async def send(app, path, method, query, headers, body):  # noqa: PLR0917
    """The status, the content type and the body of the answer."""
    sent, half = [], len(body) // 2
    messages = iter(
        [
            {"type": "http.request", "body": body[:half], "more_body": True},
            {"type": "http.request", "body": body[half:], "more_body": False},
        ]
    )

    async def receive():
        return next(messages, {"type": "http.disconnect"})

    async def sending(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode("utf8", "replace"),
        "root_path": "", "query_string": query, "headers": headers,
        "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    await app(scope, receive, sending)
    kinds = dict(sent[0]["headers"])
    return sent[0]["status"], kinds.get(b"content-type", b""), b"".join(part.get("body", b"") for part in sent[1:])


@fuzz(40)
def test_requests_over_http(judge, chance):
    app = judge.shared("app")

    def ask():
        return asyncio.run(send(app, *draw_request(chance)))

    def check(answer):
        status, kind, body = answer
        assert 200 <= status < 500
        assert b"Traceback" not in body and b".py" not in body.replace(b"copy", b"")
        if status >= 400 and kind:
            assert kind == b"application/problem+json"
            assert json.loads(body)["status"] == status

    judge(ask, check)

"""A server of its own, on the loopback address: what comes slowly or in halves is let go."""

import asyncio

import pytest

pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
pytest.importorskip("fastapi", reason="the extra [serve] is not installed")


LARGE = 2**25  # more than a system keeps for a client that does not read


async def app(scope, receive, send):
    if scope["type"] == "http":
        body = b"x" * LARGE if scope["path"] != "/" else b"ok"
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body, "more_body": scope["path"] == "/never"})
        if scope["path"] == "/never":
            await asyncio.sleep(0.1)
            raise TimeoutError


def bounded(token):
    from unicuco_plugin.web.bounds import Bounds

    return Bounds(app, token, lambda *_: None)


async def talk(*parts, pause=0.0, reading=True, app=app):
    """What a server answers to parts of a request, until it closes it; or, unread, how many connections it holds."""
    from uvicorn import Config, Server

    from unicuco_plugin.web.connection import TimedProtocol

    server = Server(Config(app, port=0, http=TimedProtocol, lifespan="off", ws="none", log_level="critical"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        if reader.at_eof():
            break
        writer.write(part)
        await asyncio.sleep(pause)
    try:
        if not reading:
            for _ in range(100):
                if server.server_state.connections:
                    await asyncio.sleep(0.02)
            return len(server.server_state.connections)
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:  # what was still sent met a closed connection
        return b""
    finally:
        writer.close()
        server.should_exit = True
        await serving


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr("unicuco_plugin.web.connection.HEAD_SECONDS", 0.2)
    monkeypatch.setattr("unicuco_plugin.web.connection.SECONDS", 0.2)


def test_half_a_head_is_waited_for_only_so_long():
    assert asyncio.run(talk(b"GET / HTTP/1.1\r\nHost: x\r\n")) == b""


def test_a_head_that_drips_is_not_waited_for_longer():
    assert asyncio.run(talk(*(b"G", b"E", b"T", b" ", b"/", b" "), pause=0.05)) == b""


def test_a_second_request_on_the_same_connection_is_answered():
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert asyncio.run(talk(request, request, pause=0.1)).count(b"200 OK") == 2


def test_what_is_no_http_is_refused():
    assert asyncio.run(talk(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")).startswith(b"HTTP/1.1 400")


def test_a_body_that_was_not_read_is_waited_for_only_so_long():
    head = b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    assert asyncio.run(talk(head, b"x", pause=0.1)).endswith(b"ok")


@pytest.mark.parametrize("length", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
def test_without_the_token_the_answer_comes_at_once_and_the_body_is_not_waited_for(monkeypatch, length):
    monkeypatch.setattr("unicuco_plugin.web.connection.HEAD_SECONDS", 60)
    monkeypatch.setattr("unicuco_plugin.web.connection.SECONDS", 60)
    head = b"POST /v1/strategies HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n"
    answer = asyncio.run(talk(head, app=bounded("token")))  # until the server closes
    assert answer.startswith(b"HTTP/1.1 401") and b"no-token" in answer
    assert {b"connection: close", b"www-authenticate: bearer"} <= {line.lower() for line in answer.split(b"\r\n")}


def test_a_body_that_comes_after_the_answer_leaves_the_connection_open():
    head = b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    assert asyncio.run(talk(head, b"xx", head, pause=0.05)).count(b"200 OK") == 2


@pytest.mark.parametrize("line", [b"GET /large HTTP/1.1\r\nConnection: close", b"GET /never HTTP/1.1"])
def test_an_answer_that_is_not_read_is_kept_only_so_long(line):
    assert asyncio.run(talk(line + b"\r\nHost: x\r\n\r\n", pause=0.1, reading=False)) == 0

"""A client for an ASGI application in this process."""

import asyncio
import json

import httpx

DEPTH, BITS = "smollm2-135m-instruct-depth", "smollm2-135m-instruct-precision"


class Client:
    """Asks an application without a network."""

    def __init__(self, app):
        self.app = app

    def send(self, method, path, **options):
        async def sending():
            # What the application raises was told as a problem before; a server logs it.
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **options)

        return asyncio.run(sending())

    def get(self, path, **options):
        return self.send("GET", path, **options)

    def ask(self, body, headers=None):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send(
            "POST", "/v1/strategies", content=content, headers={"Content-Type": "application/json", **(headers or {})}
        )

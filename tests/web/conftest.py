"""A service in this process, of two packaged profiles."""

import pytest
from asgi import BITS, DEPTH, Client

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
pytest.importorskip("prometheus_client", reason="the extra [serve] is not installed")


@pytest.fixture(scope="session")
def service():
    from unicuco_plugin.web.app import make_app

    return Client(make_app([DEPTH, BITS]))


@pytest.fixture(scope="session")
def offers(service):
    """What each profile says that it can be asked."""
    return {one["name"]: one["offers"] for one in service.get("/v1/profiles").json()["profiles"]}

"""What Prometheus may know of a service: of this process, or of all its workers where they share a folder."""

import os

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["SHARED", "Metrics"]

# Where workers count together, as prometheus-client calls it: it must be set before this module is imported.
SHARED = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counts and times; labels are routes, profiles and outcomes, never a client's own words."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        self._requests = Counter(
            "unicuco_http_requests", "Requests by route and status", ["route", "status"], registry=own
        )
        self._seconds = Histogram(
            "unicuco_http_seconds", "Seconds until an answer was sent", ["route"], buckets=_SECONDS, registry=own
        )
        self._answers = Counter(
            "unicuco_answers", "Answers by profile and outcome", ["profile", "outcome"], registry=own
        )
        self._loads = Counter("unicuco_profile_reads", "Profiles read", ["profile", "outcome"], registry=own)
        self._waiting = Gauge("unicuco_waiting", "Requests that wait", registry=own, multiprocess_mode="livesum")

    def request(self, route: str, status: int, seconds: float) -> None:
        """One request is done."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def answered(self, profile: str, outcome: str, count: int) -> None:
        """So many requests were answered, from what was kept or anew, or refused."""
        if count:
            self._answers.labels(profile, outcome).inc(count)

    def read(self, profile: str, error: Exception | None) -> None:
        """A profile was read, or could not be."""
        self._loads.labels(profile, "failed" if error else "done").inc()

    def waiting(self, count: int) -> None:
        """So many requests wait."""
        self._waiting.set(count)

    def to_text(self) -> bytes:
        """All of it in Prometheus' format."""
        registry = self._registry
        if SHARED in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)

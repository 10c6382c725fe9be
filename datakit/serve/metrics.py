"""Counts of requests and how long they took, as Prometheus reads them. No word of a request is in a label."""

from __future__ import annotations

import threading
from collections import Counter

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Metrics:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds: Counter[str] = Counter()
        self._count: Counter[str] = Counter()

    def note(self, route: str, status: int, seconds: float) -> None:
        with self._lock:
            self._requests[route, status] += 1
            self._count[route] += 1
            self._seconds[route] += seconds  # type: ignore[assignment]
            for bound in BUCKETS:
                if seconds <= bound:
                    self._buckets[route, bound] += 1

    def text(self, gauges: dict[str, int]) -> str:
        """The exposition format, version 0.0.4."""
        with self._lock:
            lines = [
                "# HELP datakit_requests_total Requests by route and status.",
                "# TYPE datakit_requests_total counter",
                *(
                    f'datakit_requests_total{{route="{route}",status="{status}"}} {count}'
                    for (route, status), count in sorted(self._requests.items())
                ),
                "# HELP datakit_request_seconds Time of a request.",
                "# TYPE datakit_request_seconds histogram",
            ]
            for route in sorted(self._count):
                lines += [
                    f'datakit_request_seconds_bucket{{route="{route}",le="{bound}"}} {self._buckets[route, bound]}'
                    for bound in BUCKETS
                ]
                lines += [
                    f'datakit_request_seconds_bucket{{route="{route}",le="+Inf"}} {self._count[route]}',
                    f'datakit_request_seconds_sum{{route="{route}"}} {self._seconds[route]:.6f}',
                    f'datakit_request_seconds_count{{route="{route}"}} {self._count[route]}',
                ]
        for name, value in sorted(gauges.items()):
            lines += [f"# TYPE datakit_{name} gauge", f"datakit_{name} {value}"]
        return "\n".join(lines) + "\n"

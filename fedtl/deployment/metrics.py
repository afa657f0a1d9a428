"""Figures in the text format that Prometheus reads, and a server for them that only this machine can reach."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from fedtl.errors import ConfigError, FedTLError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Value:
    """``labels``: of this value, by name."""

    value: float
    labels: Mapping[str, str]

    @classmethod
    def of(cls, value: float, **labels: str) -> "Value":
        return cls(value, labels)


@dataclass(frozen=True)
class Metric:
    """``name`` without "fedtl_". ``about``: one line, with the unit. A counter only grows."""

    name: str
    about: str
    values: Sequence[Value]
    kind: Literal["gauge", "counter"] = "gauge"


def exposition(metrics: Sequence[Metric]) -> str:
    """Return the text format, version 0.0.4."""
    lines = []
    for metric in metrics:
        name = f"fedtl_{metric.name}"
        lines += [f"# HELP {name} {metric.about}", f"# TYPE {name} {metric.kind}"]
        for one in metric.values:
            labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in one.labels.items())
            lines.append(f"{name}{{{labels}}} {one.value!r}" if labels else f"{name} {one.value!r}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@contextmanager
def serve_metrics(port: int | None, read: Callable[[], Sequence[Metric]]) -> Iterator[None]:
    """
    Answer ``http://127.0.0.1:PORT/metrics`` with what ``read`` returns, one request at a time. ``port`` None: nothing is
    served. Raises ConfigError where the port is taken.
    """
    if port is None:
        yield
        return
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404)
                return
            try:
                with turn:
                    body = exposition(read()).encode()
            except (FedTLError, OSError, ValueError) as error:
                self.send_error(500, explain=str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *words: object) -> None:
            return

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise ConfigError(f"--metrics {port}: {error.strerror}; choose another port") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

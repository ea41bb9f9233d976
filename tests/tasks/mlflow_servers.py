"""A real MLflow server, and a proxy before it that does what bad networks and servers do."""

import contextlib
import http.client
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit

from tests.processes import free_port

START_SECONDS = 120
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Address of an MLflow server with an empty SQLite database."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    environment.pop("_MLFLOW_SERVER_ARTIFACT_ROOT", None)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _await_health(address, process)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def _await_health(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError(f"MLflow did not start at {address}")


class Proxy:
    """Passes requests on to `target`, or does what `mode` says instead.

    pass; reset (the connection breaks); hang; 429 and 500 (an answer of the proxy's own); lost (the
    server gets the request, the client no answer); half (half of the server's answer).
    """

    def __init__(self, target: str) -> None:
        self.mode = "pass"
        self.requests = 0
        self.released = Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    super().handle_one_request()

            def log_message(self, *arguments) -> None:
                return

            def do_any(self) -> None:
                proxy.answer(self, urlsplit(target))

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_any  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler, target) -> None:
        self.requests += 1
        mode = self.mode
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        request.close_connection = True
        if mode == "reset":
            return
        if mode == "hang":
            self.released.wait(60)
            return
        if mode in ("429", "500"):
            request.send_response(int(mode))
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        connection = http.client.HTTPConnection(target.hostname, target.port, timeout=60)
        headers = dict(request.headers)
        connection.request(request.command, request.path, body=body, headers=headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if mode == "lost":
            return
        request.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in HOP_BY_HOP:
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(content[: len(content) // 2] if mode == "half" else content)

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

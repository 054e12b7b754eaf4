"""A tiny OpenAI-compatible server for tests of supervision; it needs nothing but the standard library.

POST /die ends it, POST /hang has it answer nothing any more, GET /env?NAME tells a variable of its environment.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__((options.host, options.port), Handler)
        self.options = options
        self.asked = 0
        self.hanging = False
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.server.hanging:
            time.sleep(3600)
        if self.path == "/health" and not self.server.options.no_health:
            self._answer(200, {})
        elif self.path == "/v1/models":
            key = self.server.options.key
            allowed = not key or self.headers["Authorization"] == f"Bearer {key}"
            self._answer(200 if allowed else 401, {"data": [{"id": self.server.options.model}]})
        elif self.path.startswith("/env?"):
            self._answer(200, {"value": os.environ.get(self.path[5:])})
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/die":
            print("told to die", flush=True)
            os._exit(7)
        if self.path == "/hang":
            self.server.hanging = True
            return self._answer(200, {})
        with self.server.lock:
            self.server.asked += 1
            last = self.server.asked == self.server.options.die_after
        said = json.loads(body)["messages"][-1]["content"]
        choice = {"index": 0, "message": {"role": "assistant", "content": f"echo: {said}"}, "finish_reason": "stop"}
        self._answer(200, {"model": self.server.options.model, "choices": [choice]})
        if last:
            os._exit(9)
        return None

    def _answer(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="fake")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--start-delay", type=float, default=0.0)
    parser.add_argument("--fail-at-start", metavar="TEXT", help="write this to stderr and end with code 3")
    parser.add_argument("--fail-if", metavar="PATH", help="fail at start if this file exists; else make it")
    parser.add_argument("--die-after", type=int, default=0, metavar="N", help="end after N chat completions")
    parser.add_argument("--no-health", action="store_true", help="have no /health")
    parser.add_argument("--key", help="demanded by /v1/models")
    parser.add_argument("--ignore-term", action="store_true", help="go on at SIGTERM")
    parser.add_argument("--child", metavar="PATH", help="start a child in a session of its own; write its pid there")
    options = parser.parse_args()
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.child:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        with open(options.child, "w") as file:
            file.write(str(child.pid))
    time.sleep(options.start_delay)
    if options.fail_at_start or (options.fail_if and os.path.exists(options.fail_if)):
        print(options.fail_at_start or "once is enough", file=sys.stderr, flush=True)
        sys.exit(3)
    if options.fail_if:
        with open(options.fail_if, "w"):
            pass
    print(f"{os.getpid()} listens on {options.port}", flush=True)
    Server(options).serve_forever()


if __name__ == "__main__":
    main()

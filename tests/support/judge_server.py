"""A server on this machine that speaks chat completions as it is told to, for a judge at an endpoint."""

import contextlib
import http.server
import json
import threading
import time


class Server(http.server.ThreadingHTTPServer):
    """answer(request body, number of the request) -> what is sent: a reply, or (status, headers, bytes, seconds)."""

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.asked, self.headers, self.turn = answer, [], [], threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.turn:
            number = len(self.server.asked)
            self.server.asked.append((self.path, body))
            self.server.headers.append(dict(self.headers))
        sent = self.server.answer(body, number)
        if isinstance(sent, str):
            sent = completion(sent)
        status, headers, content, seconds = sent
        time.sleep(seconds)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def completion(text):
    """A whole answer in the protocol, whose one choice says `text`."""
    choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
    content = json.dumps({"id": "x", "object": "chat.completion", "model": "stub", "choices": choices})
    return 200, {"Content-Type": "application/json"}, content.encode(), 0


@contextlib.contextmanager
def serving(answer):
    """A Server in a thread of its own, shut down at the end."""
    with Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

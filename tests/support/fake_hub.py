"""The part of the hub's interface that a push needs, on this machine: one model repository, commits kept in a list."""

import base64
import contextlib
import http.server
import json
import threading

SHA = "a" * 40


@contextlib.contextmanager
def serve(card: str | None = None, status: int = 200, repo: str = "me/model"):
    """(address, commits): commits are {path: bytes} each; card: the repository's README.md; status: of a commit."""
    commits: list[dict[str, bytes]] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def answer(self, code, body=b"", **headers):
            self.send_response(code)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self):
            if self.path.split("?")[0] in (f"/api/models/{repo}", f"/api/models/{repo}/revision/main"):
                self.answer(200, json.dumps({"id": repo, "sha": SHA, "siblings": []}).encode())
            elif self.path == f"/{repo}/resolve/{SHA}/README.md" and card is not None:
                self.answer(200, card.encode(), ETag='"card"', X_Repo_Commit=SHA)
            elif self.path == f"/{repo}/resolve/{SHA}/README.md":
                self.answer(404, X_Error_Code="EntryNotFound")
            else:
                self.answer(404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("/preupload/main"):
                named = [file["path"] for file in json.loads(body)["files"]]
                told = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in named]
                return self.answer(200, json.dumps({"files": told}).encode())
            if self.path == "/api/validate-yaml":
                # The real one looks at the front matter before a commit.
                assert json.loads(body)["content"].startswith("---")
                return self.answer(200, json.dumps({"errors": [], "warnings": []}).encode())
            lines = [json.loads(line) for line in body.splitlines()]
            assert lines[0]["value"]["parentCommit"] == SHA, "what was read is what is written over"
            added = [line["value"] for line in lines if line["key"] == "file"]
            commits.append({one["path"]: base64.b64decode(one["content"]) for one in added})
            done = {
                "commitUrl": f"https://huggingface.co/{repo}/commit/{'b' * 40}",
                "commitOid": "b" * 40,
                "success": True,
            }
            self.answer(status, json.dumps(done).encode())

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", commits
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

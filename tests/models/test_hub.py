"""What the user typed -> a directory: paths never reach the hub, hub ids do, and failures are short and soon."""

import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from latent_audit.errors import InputError
from latent_audit.models import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "model-00001-of-00001.safetensors": b"weights",
    "model.safetensors.index.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer.model": b"pieces",
    "chat_template.jinja": b"",
    "merges.txt": b"",
    "generation_config.json": b"{}",
}
UNWANTED = [
    "pytorch_model.bin",
    "consolidated.safetensors",
    "original/params.json",
    "original/consolidated.00.pth",
    "model.gguf",
    "README.md",
    "onnx/model.onnx",
    "training_args.bin",
    "flax_model.msgpack",
    "evil.py",
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a path must never be looked up on the hub")

    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(hub.huggingface_hub.HfApi, "model_info", refuse)


def test_existing_directory_is_used(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.resolve(tmp_path) == tmp_path
    # A directory wins over a hub id of the same spelling.
    assert hub.resolve("owner/name") == pathlib.Path("owner/name")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.resolve("~/owner") == tmp_path / "owner"


@pytest.mark.parametrize(
    "text",
    [
        "/no/where",
        "./llama",
        "../llama",
        "~/no-such-directory",
        "a\\b",
        "a/b/c",
        "owner/name/",
        "model.safetensors",
        "weights/pytorch_model.bin",
        "a b",
        "-x",
    ],
)
def test_what_looks_like_a_path_is_never_tried_on_the_hub(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such directory"):
        hub.resolve(text)


@pytest.mark.parametrize("text", ["", " "])
def test_empty_path_is_not_the_current_directory(text):
    with pytest.raises(InputError, match="path is"):
        hub.resolve(text)


def test_a_hub_that_never_answers_is_given_up(monkeypatch):
    # A request's own timeout does not cover name lookup; this stands for a lookup that hangs.
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(hub.huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: time.sleep(5))

    def nothing_cached(*args, local_files_only=False, **kwargs):
        assert local_files_only
        raise FileNotFoundError

    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", nothing_cached)
    start = time.time()
    with pytest.raises(InputError, match="no answer within"):
        hub.resolve("gpt2")
    assert time.time() - start < 3


def test_a_pathlib_path_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such directory"):
        hub.resolve(pathlib.Path("owner/name"))


def test_a_file_is_refused_and_a_directory_has_no_revision(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="is a file"):
        hub.resolve(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="revision 'v2'"):
        hub.resolve(tmp_path, revision="v2")


class _FakeHub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download needs; remembers what was fetched."""

    fetched = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        if "fake/hang" in path:
            time.sleep(60)
        elif "fake/gated" in path:
            self._answer(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        elif path.endswith("/nothing"):
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif "fake/good" not in path:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif "/tree/" in path:
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in (FILES | dict.fromkeys(UNWANTED, b"no")).items()
            ]
            self._answer(200, json.dumps(listing).encode())
        elif path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in [*FILES, *UNWANTED]]
            self._answer(200, json.dumps({"id": "fake/good", "sha": COMMIT, "siblings": siblings}).encode())
        else:
            name = path.split(f"/resolve/{COMMIT}/")[-1]
            self.fetched.append(name)
            self._answer(200, FILES.get(name, b"no"), {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})

    def _answer(self, status, body, headers=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


ASK = """
import json, sys, time
from latent_audit.models import hub
hub.PROBE_SECONDS = 2
for hub_id, revision in json.loads(sys.argv[1]):
    start = time.time()
    try:
        answer = {"path": str(hub.resolve(hub_id, revision=revision))}
    except hub.InputError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer | {"seconds": time.time() - start}), flush=True)
"""


def _ask(endpoint, cache, questions):
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "JAX_PLATFORMS": "cpu",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(questions)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_download_errors_and_cache_against_a_hub_of_our_own(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _FakeHub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    good, missing, gated, revision, hang = _ask(
        endpoint,
        tmp_path,
        [
            ("fake/good", None),
            ("fake/other", None),
            ("fake/gated", None),
            ("fake/good", "nothing"),
            ("fake/hang", None),
        ],
    )
    server.shutdown()
    server.server_close()
    # Only what an audit reads was fetched; no pickle, no code.
    assert sorted(set(_FakeHub.fetched)) == sorted(FILES)
    assert {file.name for file in pathlib.Path(good["path"]).iterdir()} == set(FILES)
    assert "no such model" in missing["error"] and "gated" in gated["error"]
    assert "revision 'nothing'" in revision["error"]
    assert "cannot be reached" in hang["error"] and hang["seconds"] < 10
    for answer in (missing, gated, revision, hang):
        assert "\n" not in answer["error"]
    # The server is gone now: what was fetched is found in the cache, the rest is an error at once.
    cached, unknown = _ask(endpoint, tmp_path, [("fake/good", None), ("fake/new", None)])
    assert cached["path"] == good["path"]
    assert "cannot be reached" in unknown["error"] and unknown["seconds"] < 10

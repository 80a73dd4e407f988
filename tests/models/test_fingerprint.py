"""The fingerprint sees every byte, whatever the dates say, and its cache is never believed too much."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.models.fingerprint import sha256_of_files

MIB = 2**20


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "latent_audit" / "fingerprints.json"


@pytest.fixture
def checkpoint(tmp_path):
    """A directory of one file of 6 MiB, written long ago, and small ones."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "model.safetensors").write_bytes(np.random.default_rng(0).bytes(6 * MIB))
    (path / "config.json").write_text("{}")
    (path / "tokenizer.model").write_bytes(b"pieces")
    (path / "README.md").write_text("a card")
    return path


def settle(monkeypatch):
    """Let files written just now count as old: the cache keeps only what lies some seconds back."""
    module = sys.modules["latent_audit.models.fingerprint"]
    monkeypatch.setattr(module, "_SETTLED_SECONDS", -1.0)


def edit(path, at, to):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(to)


@pytest.mark.parametrize("at", [0, MIB + 7, 3 * MIB, 6 * MIB - 1])
def test_one_changed_byte_anywhere_is_another_fingerprint(at, checkpoint, cache):
    before = models.fingerprint(checkpoint)
    assert len(before) == 16 and models.fingerprint(checkpoint) == before
    file = checkpoint / "model.safetensors"
    edit(file, at, bytes([file.read_bytes()[at] ^ 1]))
    assert models.fingerprint(checkpoint) != before


def test_names_and_every_kind_of_file_count_but_cards_do_not(checkpoint, cache):
    seen = {models.fingerprint(checkpoint)}
    (checkpoint / "README.md").write_text("another card")
    assert models.fingerprint(checkpoint) in seen
    (checkpoint / "additional_chat_templates").mkdir()
    for name in ("a.json", "chat_template.jinja", "tokenizer.model", "merges.txt", "additional_chat_templates/b.jinja"):
        (checkpoint / name).write_text("new")
        seen.add(models.fingerprint(checkpoint))
    (checkpoint / "a.json").rename(checkpoint / "c.json")
    seen.add(models.fingerprint(checkpoint))
    # A byte moved from one file to the next.
    (checkpoint / "c.json").write_text("ne")
    (checkpoint / "chat_template.jinja").write_text("wnew")
    seen.add(models.fingerprint(checkpoint))
    assert len(seen) == 8


def test_content_put_back_under_its_old_date_is_seen(checkpoint, cache, monkeypatch):
    settle(monkeypatch)
    file = checkpoint / "model.safetensors"
    before, date = models.fingerprint(checkpoint), file.stat()
    assert len(json.loads(cache.read_text())) == 1
    edit(file, 3 * MIB, b"forged")
    os.utime(file, ns=(date.st_atime_ns, date.st_mtime_ns))
    assert file.stat().st_mtime_ns == date.st_mtime_ns and models.fingerprint(checkpoint) != before
    # Another file renamed over it, of equal size and date.
    other = checkpoint / "other"
    other.write_bytes(np.random.default_rng(1).bytes(6 * MIB))
    os.utime(other, ns=(date.st_atime_ns, date.st_mtime_ns))
    other.replace(file)
    assert models.fingerprint(checkpoint) != before


def test_large_files_are_read_once_and_small_or_fresh_ones_are_not_kept(checkpoint, cache, monkeypatch):
    file, small = checkpoint / "model.safetensors", checkpoint / "config.json"
    assert sha256_of_files([file]) == [hashlib.sha256(file.read_bytes()).hexdigest()] and not cache.exists()
    settle(monkeypatch)
    sha256_of_files([file, small])
    (key,) = json.loads(cache.read_text())
    assert key.split(":")[2] == str(6 * MIB)
    # The cache is believed: what stands there is what is told.
    cache.write_text(json.dumps({key: "0" * 64}))
    assert sha256_of_files([file]) == ["0" * 64]


@pytest.mark.parametrize("damage", ["{", "[]", '{"a": 1}', "[" * 5000, "pipe", "directory", "unwritable"])
def test_a_damaged_cache_is_done_without(damage, checkpoint, cache, monkeypatch):
    settle(monkeypatch)
    expected = models.fingerprint(checkpoint)
    cache.unlink()
    if damage == "pipe":
        os.mkfifo(cache)
    elif damage == "directory":
        cache.mkdir()
    elif damage == "unwritable":
        cache.parent.rmdir()
        cache.parent.write_text("a file where the directory should be")
    else:
        cache.write_text(damage)
    assert models.fingerprint(checkpoint) == expected
    (key,) = [":".join(str(n) for n in identity(checkpoint / "model.safetensors"))]
    if damage not in ("directory", "unwritable"):
        assert json.loads(cache.read_text()) == {key: hashlib.sha256(whole(checkpoint)).hexdigest()}


def identity(file):
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def whole(checkpoint):
    return (checkpoint / "model.safetensors").read_bytes()


def test_no_cache_is_kept_within_the_checkpoint_or_without_a_home(checkpoint, monkeypatch):
    settle(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(checkpoint))
    expected, names = models.fingerprint(checkpoint), sorted(os.listdir(checkpoint))
    assert names == ["README.md", "config.json", "model.safetensors", "tokenizer.model"]
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(checkpoint))
    assert models.fingerprint(checkpoint) == expected and sorted(os.listdir(checkpoint)) == names
    assert not pathlib.Path("relative").exists()


def test_pipes_links_to_nothing_and_missing_directories_are_named(checkpoint, cache):
    (checkpoint / "lost.json").symlink_to("nowhere")
    with pytest.raises(InputError, match="lost.json is a link to a file that is not there"):
        models.fingerprint(checkpoint)
    (checkpoint / "lost.json").unlink()
    os.mkfifo(checkpoint / "pipe.json")
    with pytest.raises(InputError, match="pipe.json is a pipe"):
        models.fingerprint(checkpoint)
    with pytest.raises(InputError, match="no directory"):
        models.fingerprint(checkpoint / "absent")


def test_an_interrupt_is_not_kept_waiting_for_the_threads(tmp_path):
    code = (
        "import pathlib, signal, sys\n"
        "from latent_audit.models.fingerprint import sha256_of_files\n"
        "import latent_audit.models.fingerprint\n"
        "m = sys.modules['latent_audit.models.fingerprint']\n"
        "class Slow:\n"
        "    def update(self, data): import time; time.sleep(.05); self.first or signal.raise_signal(signal.SIGINT)\n"
        "    first = True\n"
        "import time\n"
        "m.hashlib = type('H', (), {'sha256': lambda: Slow()})\n"
        "signal.setitimer(signal.ITIMER_REAL, .3); signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "try: sha256_of_files([pathlib.Path(sys.argv[1])])\n"
        "except KeyboardInterrupt: print('stopped')\n"
    )
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**34)
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "sparse")], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "stopped\n", done.stderr

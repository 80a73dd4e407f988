"""What may be replaced and what never is; a save that is killed at any moment leaves the old or the new directory."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.models import target


def write(path, **contents):
    """Fill a directory through the door, as models.save does."""
    with target.replacing(path) as aside:
        for name, text in contents.items():
            (aside / name).write_text(text)
    return pathlib.Path(path)


def listing(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_a_directory_of_ours_is_replaced_whole(tmp_path):
    path = write(tmp_path / "pole", a="1", b="2")
    assert listing(path) == ["a", "b", "latent_audit_files.json"] and set(target.read_marker(path)) == {"a", "b"}
    assert models.check_target(path) == path
    write(path, a="3")
    assert listing(path) == ["a", "latent_audit_files.json"] and (path / "a").read_text() == "3"
    (tmp_path / "empty").mkdir()
    assert listing(write(tmp_path / "empty", c="4")) == ["c", "latent_audit_files.json"]
    assert sorted(os.listdir(tmp_path)) == ["empty", "pole"]
    # The marker says what is there and nothing of when.
    assert write(tmp_path / "empty", a="3").joinpath(target.MARKER).read_bytes() == (path / target.MARKER).read_bytes()


def plant(path, kind):
    if kind == "note":
        (path / "NOTES.txt").write_text("mine")
    elif kind == "nested":
        (path / "optimizer").mkdir()
        (path / "optimizer" / "state").write_text("mine")
    elif kind == "empty folder":
        (path / "optimizer").mkdir()
    elif kind == "edited":
        (path / "a").write_text("edited")
    elif kind == "link":
        (path / "a").unlink()
        (path / "a").symlink_to(path / "b")
    elif kind == "hidden":
        (path / ".git").write_text("mine")
    elif kind == "marker gone":
        (path / target.MARKER).unlink()
    elif kind == "marker forged":
        (path / target.MARKER).write_text(json.dumps({"files": {"a": "0" * 64, "b": "0" * 64}}))
    elif kind == "marker of others":
        (path / target.MARKER).write_text("[]")
    elif kind == "marker a pipe":
        (path / target.MARKER).unlink()
        os.mkfifo(path / target.MARKER)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("note", "holds NOTES.txt beside what this tool wrote; give another directory"),
        ("nested", "holds optimizer/state beside"),
        ("empty folder", "holds optimizer/ beside"),
        ("edited", "a was changed since this tool wrote it"),
        ("link", "a was changed since"),
        ("hidden", "holds .git beside"),
        ("marker gone", "holds a, b, which this tool did not write"),
        ("marker forged", "a, b was changed since"),
        ("marker of others", "holds list, expected an object"),
        ("marker a pipe", "is a pipe"),
    ],
)
def test_what_is_not_ours_is_never_replaced(kind, message, tmp_path):
    path = write(tmp_path / "pole", a="1", b="2")
    plant(path, kind)
    before = listing(path), [entry.lstat().st_mtime_ns for entry in sorted(path.rglob("*"))]
    for act in (models.check_target, lambda where: write(where, a="3")):
        with pytest.raises(InputError, match=message) as caught:
            act(path)
        assert "\n" not in str(caught.value)
    assert before == (listing(path), [entry.lstat().st_mtime_ns for entry in sorted(path.rglob("*"))])
    assert os.listdir(tmp_path) == ["pole"]


def test_foreign_names_are_few_and_printable(tmp_path):
    path = write(tmp_path / "pole", a="1")
    for number in range(50):
        (path / f"\x1b[31m{number}\n").write_text("mine")
    with pytest.raises(InputError, match=r"\.\.\. \(50 in all\)") as caught:
        models.check_target(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_places_where_nothing_can_be_written(tmp_path, monkeypatch):
    base, file = write(tmp_path / "base", a="1"), tmp_path / "file"
    file.write_text("mine")
    (tmp_path / "link").symlink_to(base)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for path, message in (
        (file, "is a file"),
        (tmp_path / "link", "is a link"),
        (tmp_path / "dangling", "is a link"),
        (tmp_path / "loop" / "x", "its parent .* is no directory|cannot be written"),
        (tmp_path / "absent" / "x", "its parent .*absent does not exist; make it first"),
        (file / "x", "its parent .*file is no directory|cannot be written"),
        (tmp_path / ("n" * 300), "cannot be written: File name too long"),
        ("", "is empty"),
        ("a\0b", "holds a NUL"),
        ("~nosuchuser/x", "nosuchuser"),
        ("/", "holds .*which this tool did not write|mount point"),
        (tmp_path / "base" / "..", "which this tool did not write"),
        ("/proc", "which this tool did not write|mount point"),
    ):
        with pytest.raises(InputError, match=message):
            models.check_target(path, field="finetune.export")
    with pytest.raises(InputError, match="finetune.export = .*is the checkpoint that is read"):
        models.check_target(base, field="finetune.export", reading=["owner/name", tmp_path / "base"])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot be written"):
        models.check_target(tmp_path / "new")
    monkeypatch.undo()
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    with pytest.raises(InputError, match="mount point"):
        models.check_target(base)


def test_a_failure_while_it_is_filled_leaves_the_old_one(tmp_path):
    path = write(tmp_path / "pole", a="1")
    with pytest.raises(OSError, match="full"), target.replacing(path) as aside:
        (aside / "a").write_text("2")
        raise OSError("full")
    # Notes that arrive while it is filled are not lost either.
    with pytest.raises(InputError, match="NOTES"), target.replacing(path) as aside:
        (path / "NOTES").write_text("mine")
    assert listing(path) == ["NOTES", "a", "latent_audit_files.json"] and os.listdir(tmp_path) == ["pole"]


@pytest.mark.parametrize("at_once", [True, False])
def test_the_directory_is_exchanged_also_where_the_file_system_cannot_do_it_at_once(at_once, tmp_path, monkeypatch):
    if not at_once:
        monkeypatch.setattr(target, "_exchange", lambda one, other: False)
    path = write(tmp_path / "pole", a="1")
    write(path, b="2")
    assert listing(path) == ["b", "latent_audit_files.json"] and os.listdir(tmp_path) == ["pole"]


KILLED = """
import os, shutil, signal, sys
from latent_audit.models import target
moment, path = sys.argv[1:]
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
move = target._move
if moment == "before": target._move = die
if moment == "after": target._move = lambda *a: (move(*a), die())
with target.replacing(path) as aside:
    (aside / "a").write_text("new")
    if moment == "while": die()
"""


@pytest.mark.parametrize("moment, left", [("while", "old"), ("before", "old"), ("after", "new")])
def test_a_kill_leaves_one_of_both_and_the_next_save_cleans_up(moment, left, tmp_path):
    path = write(tmp_path / "pole", a="old")
    (tmp_path / ".pole.12345678.part").mkdir()  # Ours, from before it had a marker.
    theirs = tmp_path / ".pole.abcdefgh.part"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("mine")
    done = subprocess.run([sys.executable, "-c", KILLED, moment, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (path / "a").read_text() == left and models.check_target(path) == path
    assert len(os.listdir(tmp_path)) == 3
    write(path, a="next")
    assert (path / "a").read_text() == "next" and sorted(os.listdir(tmp_path)) == [theirs.name, "pole"]


def test_what_another_process_is_filling_stays(tmp_path):
    path = write(tmp_path / "pole", a="old")
    with target.replacing(path) as theirs:
        write(path, a="ours")
        assert theirs.is_dir()
    assert listing(path) == ["latent_audit_files.json"] and os.listdir(tmp_path) == ["pole"]


def test_a_copy_or_a_moved_directory_is_still_ours(tmp_path):
    path = write(tmp_path / "pole", a="1")
    shutil.copytree(path, tmp_path / "copy")
    path.rename(tmp_path / "moved")
    for name in ("copy", "moved"):
        assert models.check_target(tmp_path / name) == tmp_path / name

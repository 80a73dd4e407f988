"""The door for files of others: what comes in unchanged, and what is one line within a moment."""

import contextlib
import json
import os
import pathlib
import signal

import pytest

from latent_audit import user_files
from latent_audit.errors import InputError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


@pytest.fixture(autouse=True)
def no_waiting():
    """A file that is waited for ends the test instead."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waited for a file"))
    signal.setitimer(signal.ITIMER_REAL, 5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def refused(*parts):
    with pytest.raises(InputError) as error:
        yield
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


READERS = [user_files.read_bytes, user_files.read_text, user_files.read_json, user_files.check_file]


@pytest.mark.parametrize("read", READERS)
def test_only_regular_files_are_opened(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("1")
    for name in ("pipe", "null", "zero"):
        with refused(f"a.field = '{tmp_path / name}' is a pipe or a device, expected a regular file"):
            read("a.field", tmp_path / name)
    with refused("a.field", "is a directory, expected a regular file"):
        read("a.field", tmp_path)
    for name in ("gone", "loop", "x" * 300, "file/below"):
        with refused("a.field", "cannot be read"):
            read("a.field", tmp_path / name)
    for path, message in {
        "": "a.field is empty, expected a path",
        "  ": "a.field is empty",
        "a\0b": "holds a NUL",
        "~nosuchuser/x": "give the whole path",
        "half\ud800": "cannot be read",
    }.items():
        with refused(message):
            read("a.field", path)
    for path in (None, 5, b"x", ["x"]):
        with refused("a.field", "expected a path"):
            read("a.field", path)


@pytest.mark.parametrize("read", READERS)
def test_size_and_pointers(read, tmp_path):
    (tmp_path / "file").write_bytes(b"123")
    read("a.field", tmp_path / "file", most=3)
    with refused("a.field", "has 3 bytes, more than the 2 that are read here"):
        read("a.field", tmp_path / "file", most=2)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**40)
    with refused("has 1099511627776 bytes"):
        read("a.field", tmp_path / "sparse")
    (tmp_path / "pointer").write_text(POINTER)
    with refused("a.field", "is a git-lfs pointer, not the file itself: run `git lfs pull`"):
        read("a.field", tmp_path / "pointer")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_permission(tmp_path):
    (tmp_path / "file").touch(mode=0)
    with refused("cannot be read: Permission denied"):
        user_files.read_bytes("a.field", tmp_path / "file")


def test_path_of(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_files.path_of("a.field", "~/x") == tmp_path / "x"
    assert user_files.path_of("a.field", pathlib.Path("x")) == pathlib.Path("x")
    (tmp_path / "x").write_text("here")
    assert user_files.read_text("a.field", "~/x") == "here"
    assert user_files.check_file("a.field", "~/x") == tmp_path / "x"


def test_contents_come_in_unchanged(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert user_files.read_bytes("a.field", tmp_path / "file") == content
    (tmp_path / "empty").touch()
    assert user_files.read_bytes("a.field", tmp_path / "empty") == b""
    text = "caf\u00e9\r\n\u4f60\u597d\ufeff\n"
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "text").write_bytes(text.encode(encoding))
        assert user_files.read_text("a.field", tmp_path / "text") == text
    value = {"a": [1, -2.5, None, True, "\u00e9"], "b": {}}
    (tmp_path / "json").write_text(json.dumps(value), encoding="utf-8-sig")
    assert user_files.read_json("a.field", tmp_path / "json", kind=dict) == value


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="a system without /proc")
def test_a_file_whose_size_is_not_known():
    assert "Name:" in user_files.read_text("a.field", "/proc/self/status")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"ab\xff", "is not UTF-8: byte 0xff at offset 2; save it as UTF-8"),
        (b"\xef\xbb\xbfa\xe9", "byte 0xe9 at offset 4"),
        ("text".encode("utf-16"), "byte 0xff at offset 0"),
        (b"\xed\xa0\x80", "is not UTF-8"),
    ],
)
def test_other_encodings(data, message, tmp_path):
    (tmp_path / "text").write_bytes(data)
    with refused("a.field", message):
        user_files.read_text("a.field", tmp_path / "text")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "here is no JSON: Expecting value at line 1, column 1"),
        ('{"a": 1,\n"b" 2}', "here is no JSON: Expecting ':' delimiter at line 2, column 5"),
        ("[" * 10**5, "here: lists or objects nested too deep, at most 100 levels are read"),
        ('{"a":' * 10**5, "nested too deep"),
        ("[" * 101 + "]" * 101, "nested too deep"),
        ('{"a":' * 101 + "1" + "}" * 101, "nested too deep"),
        ('[{"a":' * 51 + "1" + "}]" * 51, "nested too deep"),
        ("1" * 401, "a number of 401 digits, at most 400 are read"),
        ('{"a": [-' + "1" * 10**5 + "]}", "digits, at most 400"),
        ("1 2", "Extra data"),
        ("\x00", "Expecting value"),
    ],
)
def test_json_that_is_not_read(text, message):
    with refused(message):
        user_files.parse_json("here", text)


def test_json_that_is_read():
    nested = user_files.parse_json("here", "[" * 100 + "]" * 100)
    for _ in range(99):
        (nested,) = nested
    assert nested == []
    assert user_files.parse_json("here", "9" * 400) == 10**400 - 1
    # Any text is valid JSON; whether it is fit to use is check_text's question.
    assert user_files.parse_json("here", '"\\ud800"') == "\ud800"


def test_json_of_another_kind(tmp_path):
    (tmp_path / "list").write_text("[]")
    with refused("a.field", "holds list, expected an object"):
        user_files.read_json("a.field", tmp_path / "list", kind=dict)
    assert user_files.read_json("a.field", tmp_path / "list", kind=list) == []
    assert user_files.read_json("a.field", tmp_path / "list") == []


@pytest.mark.parametrize("text", ["", "plain", "caf\u00e9 \U0001f642\n\ttwo\r\nlines\u2028\u202e"])
def test_text_that_is_fit(text):
    assert user_files.check_text("a.field", text) is text


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\ud800b", "a.field holds half a surrogate pair, U+D800 at character 1: take it out of"),
        ("\udfff", "U+DFFF at character 0"),
        ("ab\0", "a.field holds a control character, U+0000 at character 2"),
        ("\x1b[31m", "U+001B"),
        ("\x7f", "U+007F"),
        ("\x0b", "U+000B"),
        ("\x08", "U+0008"),
        (None, "a.field = None, expected text"),
        (b"a", "expected text"),
        (["a"], "expected text"),
        (float("nan"), "expected text"),
    ],
)
def test_text_that_is_not(text, message):
    with refused(message):
        user_files.check_text("a.field", text)


def test_names_have_one_line():
    assert user_files.check_text("a.field", "one line", lines=False) == "one line"
    for text in ("two\nlines", "a\tb", "a\rb"):
        with refused("a control character"):
            user_files.check_text("a.field", text, lines=False)

"""Processes that find each other on loopback: all come, some do not, strangers knock. No jax is needed."""

import socket
import threading
import time

import pytest

from latent_audit.errors import InputError
from latent_audit.runtime import rendezvous


@pytest.fixture
def address():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return rendezvous.parse(f"127.0.0.1:{server.getsockname()[1]}")


def begin(address, numbers, *, processes, timeout=5.0):
    """Threads that stand for processes, and what each of them ended with: "go", or the text of its error."""
    ended: list[tuple[int, str]] = []

    def one(number):
        try:
            rendezvous.meet(address, processes=processes, process=number, timeout=timeout)
            ended.append((number, "go"))
        except InputError as error:
            ended.append((number, str(error)))

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in numbers]
    for thread in threads:
        thread.start()
    return threads, ended


def meet(address, numbers, **options):
    threads, ended = begin(address, numbers, **options)
    for thread in threads:
        thread.join(15)
    assert len(ended) == len(numbers), "one of them hangs"
    return sorted(ended)


def test_all_meet_and_leave_the_port_free(address):
    assert meet(address, [2, 0, 1], processes=3) == [(0, "go"), (1, "go"), (2, "go")]
    # jax listens there next.
    assert meet(address, [0, 1], processes=2) == [(0, "go"), (1, "go")]
    assert meet(address, [0], processes=1) == [(0, "go")]


def test_who_does_not_come_is_named_within_the_limit(address, caplog, monkeypatch):
    monkeypatch.setattr(rendezvous, "SAY_EVERY", 0.3)
    said = []
    monkeypatch.setattr(rendezvous.logging, "info", lambda text, *rest: said.append(text % rest))
    began = time.monotonic()
    ended = meet(address, [0, 2], processes=4, timeout=1.0)
    assert time.monotonic() - began < 4
    assert all(
        "process 1,3 of this run did not come" in text and "distributed_timeout = 1" in text for _, text in ended
    )
    assert any(f"waiting for process 1,3 at {address.text}" in line and "of 1 seconds left" in line for line in said)
    ended = meet(address, [1], processes=2, timeout=0.5)
    assert "process 0 of this run did not come" in ended[0][1]


def test_two_of_one_number_end_all(address):
    ended = meet(address, [0, 1, 1], processes=3)
    assert all("two processes have distributed_process = 1: give each its own, 0 to 2" in text for _, text in ended)


def test_different_counts_end_all(address):
    (threads, first), (more, second) = begin(address, [0], processes=3), begin(address, [1], processes=5)
    for thread in [*threads, *more]:
        thread.join(10)
    assert "distributed_processes = 3 in process 0, but 5 in process 1" in first[0][1] and first[0][1] == second[0][1]


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, b"latent_audit x of 2\n", b"", b"\n" * 50]
)
def test_strangers_neither_hang_nor_end_it(address, noise):
    threads, ended = begin(address, [0], processes=2)
    time.sleep(0.2)
    silent = socket.create_connection((address.host, address.port))
    for _ in range(3):
        with socket.create_connection((address.host, address.port)) as stranger:
            stranger.sendall(noise)
    more, came = begin(address, [1], processes=2)
    for thread in [*threads, *more]:
        thread.join(10)
    silent.close()
    assert ended == [(0, "go")] and came == [(1, "go")]


def test_one_that_came_and_went_is_missed_again(address):
    threads, ended = begin(address, [0], processes=3, timeout=1.5)
    time.sleep(0.2)
    with socket.create_connection((address.host, address.port)) as short:
        short.sendall(b"latent_audit 1 of 3\n")
        time.sleep(0.4)
    for thread in threads:
        thread.join(10)
    assert "process 1,2 of this run" in ended[0][1]


def test_a_stranger_at_the_address_is_not_taken_for_process_0(address):
    with socket.create_server((address.host, address.port)) as server:
        taken = meet(address, [0], processes=2, timeout=0.5)
        assert "cannot listen there" in taken[0][1]
        threading.Thread(
            target=lambda: server.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), daemon=True
        ).start()
        assert "process 0 of this run did not come" in meet(address, [1], processes=2, timeout=0.7)[0][1]


@pytest.mark.parametrize(
    "text",
    ["host", "host:", ":80", "host:0", "host:65536", "host:x", "a b:80", "u@host:80", "host:80/x", "::1:80", " h:80"],
)
def test_what_is_no_address_is_one_line(text):
    with pytest.raises(InputError, match="expected host:port"):
        rendezvous.parse(text)


def test_addresses_are_taken_apart():
    assert rendezvous.parse("10.0.0.1:8476")[1:] == ("10.0.0.1", 8476)
    assert rendezvous.parse("[::1]:8476")[1:] == ("::1", 8476)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"processes": -1}, "distributed_processes = -1"),
        ({"processes": 2.0}, "expected a whole number"),
        ({"processes": 2, "process": 2}, "distributed_process = 2 of distributed_processes = 2, expected 0 to 1"),
        ({"process": -2}, "distributed_process = -2"),
        ({"timeout": 0}, "distributed_timeout = 0"),
        ({"timeout": float("nan")}, "distributed_timeout = nan"),
        ({"coordinator": "nowhere.invalid:80"}, "no host 'nowhere.invalid' is known"),
        ({"coordinator": "nowhere"}, "expected host:port"),
    ],
)
def test_settings_are_looked_at_before_anyone_is_waited_for(fields, message):
    given = {"coordinator": "", "processes": 0, "process": -1, "timeout": 3.0} | fields
    with pytest.raises(InputError, match=message):
        rendezvous.check(**given)
    assert rendezvous.check(coordinator="", processes=0, process=-1, timeout=3.0) is None
    assert rendezvous.check(coordinator="127.0.0.1:80", processes=2, process=1, timeout=3).port == 80

"""The processes of one run find each other before jax does: who has not come is named, and nobody waits for ever.

Process 0 listens at the address that all were given; the others tell it their number and how many they expect. Once
all have come the address is free again, and jax takes it. Plain lines over TCP, each at most MOST_BYTES long:

    to process 0:   latent_audit 2 of 4
    from it:        waiting 1,3      every SAY_EVERY seconds; or: go; or: refused REASON
"""

import contextlib
import queue
import re
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from absl import logging

from latent_audit.errors import InputError

MOST_BYTES = 600
# Ours, seconds: between two log lines of one who waits, between two tries, and for the name of a host.
SAY_EVERY = 10.0
TRY_EVERY = 0.2
RESOLVE = 10.0
# Ours: how long a connection may be silent, and how many that say nothing of ours are held open at a time.
SILENT = 10.0
MOST_STRANGERS = 64
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/@?#\[\]]+):([0-9]{1,5})")
_HELLO = re.compile(rb"latent_audit (\d{1,6}) of (\d{1,6})")


class Address(NamedTuple):
    """Where process 0 is: as it was typed, and what that stands for."""

    text: str
    host: str
    port: int


def parse(text: str) -> Address:
    """ "host:port" -> Address; InputError for anything else, without looking the host up."""
    found = _ADDRESS.fullmatch(text)
    if found is None or not 1 <= int(found[2]) <= 65535:
        raise InputError(
            f"distributed_coordinator = {text!r}, expected host:port of process 0 with a port from 1 to 65535, such as "
            "10.0.0.1:8476"
        )
    return Address(text, found[1].strip("[]"), int(found[2]))


def check(*, coordinator: str, processes: int, process: int, timeout: float) -> Address | None:
    """The address of process 0, None where the cluster has to say it; InputError for what cannot be.

    Looks the host up. processes = 0 and process = -1 stand for what the cluster says.
    """
    for field, value in {"processes": processes, "process": process}.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"distributed_{field} = {value!r}, expected a whole number")
    if processes < 0:
        raise InputError(f"distributed_processes = {processes}, expected how many there are, at least 1")
    if process < -1 or processes and process >= processes:
        raise InputError(
            f"distributed_process = {process} of distributed_processes = {processes}, expected 0 to "
            f"{max(processes - 1, 0)}"
        )
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < 1e6:
        raise InputError(f"distributed_timeout = {timeout!r}, expected seconds, more than 0 and less than 1e6")
    if not coordinator:
        return None
    address = parse(coordinator)
    _check_host(address, min(RESOLVE, timeout))
    return address


def _check_host(address: Address, limit: float) -> None:
    answer: queue.Queue = queue.Queue()

    def ask() -> None:
        try:
            answer.put(socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answer.put(error)

    # In a thread, because a lookup has no timeout of its own.
    threading.Thread(target=ask, daemon=True).start()
    try:
        got = answer.get(timeout=limit)
    except queue.Empty:
        got = f"no answer within {limit:g} seconds"
    if not isinstance(got, list):
        raise InputError(f"distributed_coordinator = {address.text!r}: no host {address.host!r} is known ({got})")


def meet(address: Address, *, processes: int, process: int, timeout: float) -> None:
    """Return once all processes have come; InputError naming those that have not after `timeout` seconds.

    InputError too for two processes of one number, for different counts, and for a port that is taken.
    """
    if processes > 1:
        (_wait if process == 0 else _join)(address, processes, process, time.monotonic() + timeout, timeout)


def _absent(missing: str, address: Address, timeout: float) -> InputError:
    return InputError(
        f"process {missing} of this run did not come to distributed_coordinator = {address.text!r} within "
        f"distributed_timeout = {timeout:g} seconds. Start the same command in all of them, each with its own "
        "distributed_process"
    )


def _wait(address: Address, processes: int, process: int, deadline: float, timeout: float) -> None:
    """Process 0: listen until the others have come, and let them go."""
    said = time.monotonic()
    with _listen(address) as server, selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        hall = Hall(server, selector, processes, {}, {})
        try:
            while missing := _missing(hall):
                now = time.monotonic()
                if now > deadline:
                    raise _absent(missing, address, timeout)
                if now - said > SAY_EVERY:
                    said = now
                    _say_who(missing, address, deadline - now, timeout)
                    _send(hall.came.values(), f"waiting {missing}")
                for key, _ in selector.select(min(TRY_EVERY, _left(deadline))):
                    _welcome(hall) if key.fileobj is server else _hear(hall, key.fileobj)  # type: ignore[arg-type]
                for one in [one for one, (since, _) in hall.strangers.items() if now - since > SILENT]:
                    _drop(hall, one)
            _send(hall.came.values(), "go")
            for one in hall.came.values():
                # They close first, so that the port is free for jax at once.
                one.settimeout(2.0)
                with contextlib.suppress(OSError):
                    one.recv(1)
        except InputError as error:
            _send([*hall.came.values(), *hall.strangers], f"refused {error}")
            raise
        finally:
            for one in (*hall.came.values(), *hall.strangers):
                one.close()


class Hall(NamedTuple):
    """Who is where at process 0: strangers (since when, what they said so far) and, by number, those who have come."""

    server: socket.socket
    selector: selectors.BaseSelector
    processes: int
    strangers: dict[socket.socket, tuple[float, bytes]]
    came: dict[int, socket.socket]


def _missing(hall: Hall) -> str:
    """Numbers of those who have not come, or have gone again: "1,3"; "" when all are here."""
    for number in [number for number, one in hall.came.items() if not _is_open(one)]:
        hall.came.pop(number).close()
    numbers = [number for number in range(1, hall.processes) if number not in hall.came]
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return ",".join(map(str, numbers[:8])) + more


def _listen(address: Address) -> socket.socket:
    local = address.host in ("localhost", "::1") or address.host.startswith("127.")
    try:
        if local:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            return socket.create_server((address.host, address.port), family=family)
        # On all addresses, as jax does: the name that others use need not be one of this machine's own.
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", address.port))
    except OSError as error:
        raise InputError(
            f"distributed_coordinator = {address.text!r}: process 0 cannot listen there ({error.strerror or error}). "
            "Give the address of its own machine and a port that is free"
        ) from error


def _welcome(hall: Hall) -> None:
    with contextlib.suppress(OSError):
        connection, _ = hall.server.accept()
        connection.setblocking(False)
        if len(hall.strangers) >= MOST_STRANGERS:
            _drop(hall, next(iter(hall.strangers)))
        hall.strangers[connection] = (time.monotonic(), b"")
        hall.selector.register(connection, selectors.EVENT_READ)


def _hear(hall: Hall, source: socket.socket) -> None:
    """Take what a stranger says; who says nothing of ours is dropped, whatever it is."""
    if source not in hall.strangers:
        return
    since, text = hall.strangers[source]
    data = b""
    with contextlib.suppress(OSError):
        data = source.recv(MOST_BYTES)
    line, newline, _ = (text + data).partition(b"\n")
    if data and not newline and len(line) < MOST_BYTES:
        hall.strangers[source] = (since, line)
        return
    hello = _HELLO.fullmatch(line) if newline else None
    if hello is None:
        _drop(hall, source)
        return
    number = int(hello[1])
    _check_guest(hall, number, int(hello[2]))
    hall.selector.unregister(source)
    del hall.strangers[source]
    hall.came[number] = source


def _check_guest(hall: Hall, number: int, count: int) -> None:
    last = hall.processes - 1
    if count != hall.processes:
        raise InputError(
            f"distributed_processes = {hall.processes} in process 0, but {count} in process {number}: give all the same"
        )
    if number > last:
        raise InputError(f"distributed_process = {number} of {hall.processes}, expected 0 to {last}")
    if number == 0 or number in hall.came and _is_open(hall.came[number]):
        raise InputError(f"two processes have distributed_process = {number}: give each its own, 0 to {last}")


def _is_open(connection: socket.socket) -> bool:
    """Whether the process at the other end is still there: one that was started again may take its place."""
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _drop(hall: Hall, stranger: socket.socket) -> None:
    hall.selector.unregister(stranger)
    del hall.strangers[stranger]
    stranger.close()


def _send(connections: Iterable[socket.socket], line: str) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.send(line.encode()[: MOST_BYTES - 1] + b"\n")


def _say_who(missing: str, address: Address, left: float, timeout: float) -> None:
    logging.info(
        "waiting for process %s at %s: %.0f of %g seconds left", missing, address.text, max(0.0, left), timeout
    )


def _join(address: Address, processes: int, process: int, deadline: float, timeout: float) -> None:
    """Any other process: say its number to process 0 until that answers, and wait to be let go."""
    said, missing = time.monotonic(), "0"
    while True:
        for line in _talk(address, f"latent_audit {process} of {processes}\n".encode(), deadline):
            word, _, rest = line.partition(" ")
            if word == "go":
                return
            if word == "refused":
                raise InputError(rest)
            if word == "waiting":
                missing = rest
            now = time.monotonic()
            if now - said > SAY_EVERY:
                said = now
                _say_who(missing, address, deadline - now, timeout)
        if time.monotonic() > deadline:
            raise _absent(missing, address, timeout)
        missing = "0"


def _talk(address: Address, hello: bytes, deadline: float) -> Iterator[str]:
    """Lines of process 0 as they come, "" where none came for a while; ends when it is not there or has gone."""
    try:
        connection = socket.create_connection((address.host, address.port), timeout=min(5.0, _left(deadline)))
    except OSError:
        time.sleep(min(TRY_EVERY, _left(deadline)))
        yield ""
        return
    with connection:
        rest = b""
        connection.settimeout(TRY_EVERY)
        try:
            connection.sendall(hello)
            # Process 0 has the same limit and says who was missing: it is heard a little longer.
            while time.monotonic() < deadline + 1:
                try:
                    data = connection.recv(MOST_BYTES)
                except TimeoutError:
                    yield ""
                    continue
                if not data or len(rest) > 2 * MOST_BYTES:
                    break
                *lines, rest = (rest + data).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines)
        except OSError:
            pass
    # A stranger at this port hangs up at once: it is not asked without a pause.
    time.sleep(min(TRY_EVERY, _left(deadline)))
    yield ""


def _left(deadline: float) -> float:
    return max(0.01, deadline - time.monotonic())

"""A real browser without a window, driven over its own protocol through two pipes: no port, no package, no network.

Chromium's DevTools protocol, https://chromedevtools.github.io/devtools-protocol: JSON messages, each ended by a zero
byte, read from file descriptor 3 and written to 4.
"""

import base64
import contextlib
import json
import os
import pathlib
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

SECONDS = 60  # for one answer, on a machine with much else to do


def found() -> str:
    """The path of a Chromium on this machine, '' where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), "")


@contextlib.contextmanager
def opened() -> Iterator[Callable[..., dict]]:
    """A blank page as a function: send("Page.navigate", url=...) -> the protocol's result.

    Raises RuntimeError on the protocol's errors. send.events: what the browser said by itself, in order.
    """
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        shell = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        process = subprocess.Popen(
            ["/bin/bash", "-c", shell, found(), *flags, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield _page(ours_in, ours_out)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(ours_in)
            os.close(ours_out)


def _page(reading: int, writing: int) -> Callable[..., dict]:
    events: list[dict] = []
    state = {"number": 0, "rest": b"", "session": None}

    def receive() -> dict:
        until = time.monotonic() + SECONDS
        while b"\0" not in state["rest"]:
            if not select.select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
                raise RuntimeError(f"the browser said nothing for {SECONDS} s")
            part = os.read(reading, 1 << 20)
            if not part:
                raise RuntimeError("the browser ended")
            state["rest"] += part
        message, _, state["rest"] = state["rest"].partition(b"\0")
        return json.loads(message)

    def send(method: str, **params: Any) -> dict:
        state["number"] += 1
        number = state["number"]
        session = {"sessionId": state["session"]} if state["session"] else {}
        os.write(writing, json.dumps({"id": number, "method": method, "params": params} | session).encode() + b"\0")
        while True:
            message = receive()
            if message.get("id") != number:
                events.append(message)
            elif "error" in message:
                raise RuntimeError(f"{method}: {message['error']}")
            else:
                return message["result"]

    target = send("Target.createTarget", url="about:blank")["targetId"]
    state["session"] = send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        send(f"{domain}.enable")
    send.events = events  # type: ignore[attr-defined]
    return send


def show(send: Callable[..., dict], path: pathlib.Path, *, width: int, height: int = 900, dark: bool = False) -> None:
    """Open a file of this machine at a width in pixels; returns when it is drawn. What was said before is forgotten."""
    send.events.clear()  # type: ignore[attr-defined]
    send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    send("Emulation.setEmulatedMedia", features=[scheme])
    send("Page.navigate", url=path.resolve().as_uri())
    waits = (
        "new Promise(done => document.readyState === 'complete' ? done(1) : addEventListener('load', () => done(1)))"
    )
    evaluate(send, waits)


def evaluate(send: Callable[..., dict], script: str) -> Any:
    """The value of a JavaScript expression in the page, promises waited for. Raises RuntimeError where it throws."""
    answer = send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
    if "exceptionDetails" in answer:
        raise RuntimeError(json.dumps(answer["exceptionDetails"])[:2000])
    return answer["result"].get("value")


def complaints(send: Callable[..., dict]) -> list[str]:
    """What a console would show as an error or a warning, and addresses beyond this machine that were asked for."""
    said = []
    for event in send.events:  # type: ignore[attr-defined]
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            said.append(str(params["exceptionDetails"])[:500])
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            said.append(params["entry"]["text"])
        if event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            said.append(str(params["args"])[:500])
        if event.get("method") == "Network.requestWillBeSent":
            url = params["request"]["url"]
            said += [] if url.startswith(("file:", "about:", "data:")) else [f"asked for {url}"]
    return said


def printed(send: Callable[..., dict]) -> bytes:
    """The page as a PDF on A4 paper."""
    answer = send("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)
    return base64.b64decode(answer["data"])


def pages(pdf: bytes) -> int:
    """How many pages a PDF of Chromium has."""
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))


def shot(send: Callable[..., dict], *, whole: bool = False) -> bytes:
    """What is seen, as PNG; whole: down to the page's end."""
    return base64.b64decode(send("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

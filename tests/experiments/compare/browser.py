"""A headless Chromium that tests operate by its DevTools protocol, over the WebSocket client of tornado."""

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tornado.websocket import WebSocketClientConnection, websocket_connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --use-angle=swiftshader --enable-unsafe-swiftshader --remote-debugging-port=0"
)
PATIENCE = 60.0  # seconds that an answer may take


class Page:
    """An open page.

    Args:
        connection: To its target.
        loop: That waits for it.
    """

    def __init__(self, connection: WebSocketClientConnection, loop: asyncio.AbstractEventLoop) -> None:
        self.connection, self.loop = connection, loop
        self.events: list[dict[str, Any]] = []
        self.number = 0

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result; what happens meanwhile is kept in `events`."""
        return self.loop.run_until_complete(asyncio.wait_for(self._send(method, params), PATIENCE))

    async def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.number += 1
        await self.connection.write_message(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            text = await self.connection.read_message()
            assert text is not None, "the browser has closed the page"
            message = json.loads(text)
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def open(self, path: Path) -> float:
        """Open a file; seconds until its scripts have run."""
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        start = time.perf_counter()
        self.send("Page.navigate", url=path.as_uri())
        while self.value("document.readyState") != "complete" or self.value("location.protocol") != "file:":
            assert time.perf_counter() - start < PATIENCE
            time.sleep(0.02)
        return time.perf_counter() - start

    def value(self, script: str) -> Any:
        """What an expression, perhaps a promise, is in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, selector: str, index: int = 0) -> None:
        """The mouse, on the middle of an element."""
        element = f"document.querySelectorAll({json.dumps(selector)})[{index}]"
        self.value(f"{element}.scrollIntoView({{block: 'center'}})")
        box = self.value(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({element}.getBoundingClientRect())")
        self.mouse("mouseMoved", *box)
        self.mouse("mousePressed", *box, button="left", clickCount=1)
        self.mouse("mouseReleased", *box, button="left", clickCount=1)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """An event of the mouse."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        start = time.perf_counter()
        while not self.value(script):
            assert time.perf_counter() - start < PATIENCE, f"never true: {script}"
            time.sleep(0.05)

    def picture(self, path: Path, whole: bool = False) -> None:
        """A screenshot as PNG, of the whole page or of what is seen."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))

    def requests(self) -> list[str]:
        """Addresses that were asked for, those within the page apart."""
        asked = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [
            event["params"]["request"]["url"] for event in asked if event["params"]["request"]["url"][:5] != "data:"
        ]

    def mistakes(self) -> list[str]:
        """Exceptions and errors of scripts."""
        thrown = [str(event["params"]) for event in self.events if event["method"] == "Runtime.exceptionThrown"]
        logged = [event["params"]["entry"] for event in self.events if event["method"] == "Log.entryAdded"]
        return thrown + [entry["text"] for entry in logged if entry["level"] == "error"]


@contextmanager
def browser(profile: Path, width: int = 1400, height: int = 900) -> Iterator[Page]:
    """A page of a browser that ends with the block.

    Args:
        profile: Empty folder for its files.
        width: Of the window, pixels.
        height: Of the window, pixels.
    """
    words = [
        str(CHROMIUM),
        *FLAGS.split(),
        f"--window-size={width},{height}",
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loop = asyncio.new_event_loop()
    try:
        yield Page(loop.run_until_complete(_connect(profile)), loop)
    finally:
        process.terminate()
        process.wait(PATIENCE)
        loop.close()


async def _connect(profile: Path) -> WebSocketClientConnection:
    port, end = profile / "DevToolsActivePort", time.perf_counter() + PATIENCE
    while not (port.is_file() and port.read_text().count("\n")):
        assert time.perf_counter() < end, "the browser does not start"
        await asyncio.sleep(0.05)
    with urlopen(f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json/list") as answer:
        targets = json.load(answer)
    address = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
    return await websocket_connect(address, max_message_size=2**28)

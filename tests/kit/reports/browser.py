"""A real browser, driven by the DevTools protocol, that notes what a page says and asks for."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_SECONDS = 60


def find_browser() -> str | None:
    """Return a Chromium on this machine's PATH, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._loaded = asyncio.Event()
        self._reader = asyncio.create_task(self._read())
        self.errors: list[str] = []
        self.requests: list[str] = []

    async def open(self, path: Path) -> None:
        """Open a local file and wait until it is loaded."""
        await self.visit(path.absolute().as_uri())

    async def visit(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._call(f"{domain}.enable")
        self._loaded.clear()
        await self._call("Page.navigate", url=url)
        await asyncio.wait_for(self._loaded.wait(), START_SECONDS)

    async def resize(self, width: int, *, dark: bool = False, media: str = "screen") -> None:
        """Take on a width, a colour scheme and a medium."""
        await self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    async def run(self, script: str) -> Any:
        """Return what a script comes to."""
        answer = await self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def type_text(self, text: str) -> None:
        """Type into what has the focus."""
        await self._call("Input.insertText", text=text)

    async def press(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("rawKeyDown", "keyUp"):
            await self._call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    async def type_key(self, letter: str) -> None:
        """Press and release the key of a letter."""
        key = {"key": letter, "text": letter, "windowsVirtualKeyCode": ord(letter.upper())}
        for kind in ("keyDown", "keyUp"):
            await self._call("Input.dispatchKeyEvent", type=kind, **key)

    async def screenshot(self, path: Path) -> None:
        """Write the whole page as a picture."""
        size = (await self._call("Page.getLayoutMetrics"))["cssContentSize"]
        shot = await self._call(
            "Page.captureScreenshot",
            captureBeyondViewport=True,
            clip={"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1},
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    async def close(self) -> None:
        """Stop listening."""
        self._reader.cancel()
        await self._socket.close()

    def _call(self, method: str, **params: Any) -> Awaitable[Any]:
        number = len(self._waiting) + 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future

        async def send() -> Any:
            await self._socket.send_json({"id": number, "method": method, "params": params})
            return await asyncio.wait_for(future, START_SECONDS)

        return send()

    async def _read(self) -> None:
        async for message in self._socket:
            body = json.loads(message.data)
            if "id" in body:
                future = self._waiting[body["id"]]
                if "error" in body:
                    future.set_exception(RuntimeError(str(body["error"])))
                else:
                    future.set_result(body["result"])
                continue
            method, params = body["method"], body.get("params", {})
            if method == "Page.loadEventFired":
                self._loaded.set()
            elif method == "Runtime.exceptionThrown":
                self.errors.append(str(params["exceptionDetails"]))
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                self.errors.append(params["entry"]["text"])
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                self.errors.append(str(params["args"]))
            elif method == "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])


@asynccontextmanager
async def browsing(browser: str, folder: Path) -> AsyncIterator[Page]:
    """Start a browser of its own profile below ``folder`` and give its first tab."""
    process = subprocess.Popen(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-dev-shm-usage", "--disable-extensions", "--remote-debugging-port=0",
         f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port_file = folder / "DevToolsActivePort"
        async with asyncio.timeout(START_SECONDS):
            while not port_file.exists() or not port_file.read_text().strip():
                assert process.poll() is None, f"{browser} ended with {process.returncode}"
                await asyncio.sleep(0.05)
        port = port_file.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                tabs = [tab for tab in await answer.json() if tab["type"] == "page"]
            socket = await session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0)
            page = Page(socket)
            try:
                yield page
            finally:
                await page.close()
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)

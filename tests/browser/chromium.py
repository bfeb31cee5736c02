"""Chromium without a window, driven over a pipe by the DevTools protocol.

With `--remote-debugging-pipe` it reads commands from file descriptor 3, and writes answers and
events to 4: JSON that ends with a zero byte. That takes no driver and no library.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0  # seconds after which something hangs
PAUSE = 0.05
HEIGHT = 900
FIRST_FREE = 10  # file descriptors from here on are none of those that are redirected
KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "ArrowLeft": (37, ""), "ArrowRight": (39, "")}
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--remote-debugging-pipe"),
)

# of all texts that are shown: those whose contrast with what is behind them is below 4.5
POOR_CONTRAST = r"""
(() => {
  const levels = (text) => text.match(/[\d.]+/g).map(Number);
  const light = (colour) => colour.slice(0, 3).map((level) => level / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = levels(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const hasText = (element) =>
    [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  return [...document.querySelectorAll("body *")]
    .filter((one) => one.checkVisibility() && hasText(one) && !one.disabled)
    .filter((one) => !one.closest("svg, option"))
    .filter((one) => {
      const text = light(levels(getComputedStyle(one).color)), behind = light(ground(one));
      return (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05) < 4.5;
    })
    .map((one) => one.outerHTML.slice(0, 80));
})()
"""
UNLABELLED = """
[...document.querySelectorAll("input, select, button, a, [tabindex]")]
  .filter((one) => !one.labels?.length && !one.ariaLabel && !one.textContent.trim()
    && !one.querySelector("img[alt]"))
  .map((one) => one.outerHTML.slice(0, 80))
"""


def find_chromium() -> str | None:
    """Return the path of a Chromium of this machine, if there is one."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class ProtocolError(Exception):
    """A command that the browser refuses, or can't carry out just now."""


class Browser:
    """A running Chromium with a profile of its own."""

    def __init__(self, program: str, profile: Path) -> None:
        commands, self._commands = _pipe()
        self._answers, answers = _pipe()
        words = ["sh", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "sh", program, *OPTIONS]
        self._process = subprocess.Popen(
            [*words, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._received = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._commands)
            os.close(self._answers)

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")

        while True:
            answer = self._receive()
            if answer.get("id") != self._number:
                self.events.append(answer)
            elif "error" in answer:
                raise ProtocolError(f"{method}: {answer['error']}")
            else:
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._answers], [], [], PATIENCE)
            assert ready, "Chromium does not answer"
            part = os.read(self._answers, 2**16)
            assert part, "Chromium has ended"
            self._received += part
        answer, _, self._received = self._received.partition(b"\0")
        return json.loads(answer)

    @contextmanager
    def new_page(self) -> Iterator["Page"]:
        """Open a tab inside a `with`."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, attached["sessionId"])
        try:
            yield page
        finally:
            self.send("Target.closeTarget", targetId=target)


class Page:
    """A tab: what it shows, what it has asked for, and what went wrong in it."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to this tab."""
        return self._browser.send(method, self._session, **parameters)

    def open(self, url: str) -> None:
        """Open an address, and wait until everything of it is there."""
        told = self.send("Page.navigate", url=url)
        assert "errorText" not in told, told
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width: int, *, is_dark: bool = False) -> None:
        """Set the width of the window, and which colours its user prefers."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=HEIGHT,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript."""
        told = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if self.evaluate(expression):
                    return
            except ProtocolError:  # while another document takes its place
                pass
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(PAUSE)

    def focus(self, selector: str) -> None:
        """Focus an element, as a click or the Tab key would."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")

    def click(self, selector: str) -> None:
        """Click on an element."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key: str) -> None:
        """Press a key and release it."""
        code, text = KEYS[key]
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.send("Input.dispatchKeyEvent", type="keyUp", **named)

    def type(self, text: str) -> None:
        """Type text where the focus is."""
        self.send("Input.insertText", text=text)

    def choose_file(self, selector: str, file: Path) -> None:
        """Choose a file, as in the window that a browser opens."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def save_picture(self, file: Path) -> None:
        """Write a picture of the whole page."""
        file.parent.mkdir(parents=True, exist_ok=True)
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        told = self.send(
            "Page.captureScreenshot", clip={**size, "scale": 1}, captureBeyondViewport=True
        )
        file.write_bytes(base64.b64decode(told["data"]))

    def print_pdf(self) -> bytes:
        """Return the page as it is printed."""
        return base64.b64decode(self.send("Page.printToPDF")["data"])

    def _events(self, method: str) -> list[dict[str, Any]]:
        self.evaluate("0")  # what came before is there then
        return [
            event["params"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event["method"] == method
        ]

    def requests(self) -> list[str]:
        """Return the addresses of all requests; those that hold their content are none."""
        urls = [event["request"]["url"] for event in self._events("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith("data:")]

    def problems(self, *, of_network: bool = True) -> list[str]:
        """Return the errors of scripts, of policies, and of the network unless they are meant."""
        thrown = [str(event) for event in self._events("Runtime.exceptionThrown")]
        printed = [
            str(event)
            for event in self._events("Runtime.consoleAPICalled")
            if event["type"] in ("error", "warning", "assert")
        ]
        entries = [event["entry"] for event in self._events("Log.entryAdded")]
        logged = [
            str(entry)
            for entry in entries
            if entry["level"] == "error" and (of_network or entry["source"] != "network")
        ]
        return thrown + printed + logged


def _pipe() -> tuple[int, int]:
    """Return both ends of a pipe, none of which has a small number."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]

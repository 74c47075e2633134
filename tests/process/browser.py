"""A headless Chromium, driven over the DevTools protocol."""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.request

from websockets.sync.client import connect

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]


def find():
    """The browser of this machine, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, address):
        self.socket = connect(address, max_size=None, ping_interval=None, compression=None, proxy=None, legacy=True)
        self.ids = itertools.count(1)
        self.call("Page.enable")
        self.call("Runtime.enable")

    def call(self, method, **params):
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=20))
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return message["result"]

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, expression):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression, timeout=15):
        """Waits until an expression is true; returns its value."""
        deadline = time.monotonic() + timeout
        while not (value := self.run(expression)):
            assert time.monotonic() < deadline, f"{expression} is not true; the page says: {self.run('document.body.innerText')!r}"
            time.sleep(0.05)
        return value

    def type(self, selector, text):
        """Types as a user would, and presses Enter."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
            self.call("Input.dispatchKeyEvent", type=kind, text="\r" if kind == "keyDown" else "", **enter)


class Browser:
    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="ringgate-chromium-", ignore_cleanup_errors=True)
        command = [
            find(),
            "--headless=new",
            "--remote-debugging-port=0",
            f"--user-data-dir={self.profile.name}",
            "--no-first-run",
            "--no-default-browser-check",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-background-timer-throttling",
            "--disable-renderer-backgrounding",
            # As root, as in containers, Chromium's sandbox refuses to run.
            *(["--no-sandbox"] if os.geteuid() == 0 or os.environ.get("CI") else []),
            "about:blank",
        ]
        self.log = open(pathlib.Path(self.profile.name) / "log", "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True)
        try:
            self.port = self._wait_port()
        except BaseException:
            self.close()
            raise

    def _wait_port(self):
        file = pathlib.Path(self.profile.name) / "DevToolsActivePort"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
                return int(file.read_text().splitlines()[0])
            assert self.process.poll() is None, pathlib.Path(self.log.name).read_text(errors="replace")
            time.sleep(0.05)
        raise AssertionError("Chromium did not open its port within 30 s")

    def page(self, url):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as response:
            page = Page(json.load(response)["webSocketDebuggerUrl"])
        page.open(url)
        return page

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)  # the process group that was started above
        self.process.wait()
        self.log.close()
        self.profile.cleanup()

"""A real browser, driven over the DevTools protocol by two pipes: Chromium or Chrome, if one is installed."""

import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from fleet import SLOW, wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
MISSING = "no browser: none of " + ", ".join(NAMES) + " is installed"
SECONDS = 30 * SLOW
# The browser wants its two pipes at descriptors 3 and 4, whatever numbers they have here.
LAUNCH = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
for number, fd in zip((3, 4), pipes):
    os.dup2(fd, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of one browser. Use as a context manager."""

    def __init__(self, width=1200, height=800):
        self.home = tempfile.TemporaryDirectory()
        self.size = (width, height)
        self.events = []
        self.serial = 0

    def __enter__(self):
        to_browser, self.out = os.pipe()
        self.back, from_browser = os.pipe()
        command = [PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                   "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={self.home.name}"]
        self.process = subprocess.Popen([sys.executable, "-c", LAUNCH, str(to_browser), str(from_browser), *command],
                                        pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        os.set_blocking(self.back, False)
        self.unread = b""
        self.session = None
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(domain + ".enable")
            self.resize(*self.size)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.back)
        for _ in range(20):  # its children may still write there
            try:
                self.home.cleanup()
                return
            except OSError:
                time.sleep(0.1)

    def read(self):
        """The messages that have come, parsed."""
        while True:
            try:
                data = os.read(self.back, 1 << 16)
            except BlockingIOError:
                break
            assert data, "the browser has ended"
            self.unread += data
        *whole, self.unread = self.unread.split(b"\0")
        return [json.loads(message) for message in whole]

    def call(self, method, **params):
        self.serial += 1
        message = {"id": self.serial, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        found = []

        def answered():
            for message in self.read():
                (found if message.get("id") == self.serial else self.events).append(message)
            return found
        answer = wait_until(answered, SECONDS, f"an answer to {method}", 0.01)[0]
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, url):
        self.call("Page.navigate", url=url)
        wait_until(lambda: self.js("document.readyState") == "complete", SECONDS, f"{url} is loaded")

    def js(self, expression):
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector):
        """What the last element shows; None if there is none."""
        return self.js(f"Array.from(document.querySelectorAll({json.dumps(selector)})).at(-1)?.innerText ?? null")

    def wait(self, expression, what, seconds=SECONDS):
        return wait_until(lambda: self.js(expression), seconds, what, 0.02)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def press(self, key, **more):
        code = {"Enter": 13, "Tab": 9}[key]
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                      **({"text": "\r"} if key == "Enter" and kind == "keyDown" else {}), **more)

    def click(self, selector):
        box = self.js("(() => { const b = document.querySelector(%s).getBoundingClientRect();"
                      " return [b.x + b.width / 2, b.y + b.height / 2]; })()" % json.dumps(selector))
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def resize(self, width, height, phone=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1,
                  mobile=phone)

    def scheme(self, name):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, path):
        pathlib.Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self):
        """Errors in the page's log: exceptions, violations of the content policy."""
        self.js("1")  # what happened before has arrived
        found = [e["params"]["exceptionDetails"]["text"] for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        return found + [e["params"]["entry"]["text"] for e in self.events
                        if e["method"] == "Log.entryAdded" and e["params"]["entry"]["level"] == "error"]

    def requests(self):
        """Every address that the page has asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

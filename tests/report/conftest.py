"""A headless Chromium for pages that need one, driven through a pipe; tests skip where there is none."""

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time

import pytest

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
         "--hide-scrollbars", "--remote-debugging-pipe"]


class Browser:
    """One window. Speaks the DevTools protocol: JSON between zero bytes, on file descriptors 3 and 4 of the process."""

    def __init__(self, program: str, folder, size):
        to_read, self.out = os.pipe()
        self.into, to_write = os.pipe()
        line = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        command = ["bash", "-c", line, program, *FLAGS, f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}"]
        self.process = subprocess.Popen(command, pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.id, self.buffer, self.events, self.session = 0, b"", [], None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.send(f"{domain}.enable")
        self.size(*size)

    def size(self, width, height):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def send(self, method, **params):
        self.id += 1
        message = {"id": self.id, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.id:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self, seconds=60.0):
        while b"\0" not in self.buffer:
            assert select.select([self.into], [], [], seconds)[0], "the browser does not answer"
            got = os.read(self.into, 1 << 16)
            assert got, "the browser is gone"
            self.buffer += got
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def run(self, script):
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, url, state="document.readyState", ready=("complete",), seconds=60.0):
        """Go to a page and wait until the expression `state` is one of `ready`; its value."""
        self.events.clear()
        self.send("Page.navigate", url=url)
        end = time.monotonic() + seconds
        while (found := self.run(state)) not in ready:
            assert time.monotonic() < end, f"{state} is {found!r} after {seconds} s: {self.said()}"
            time.sleep(0.1)
        return found

    def said(self):
        """Errors and warnings of the page."""
        return [json.dumps(e["params"])[:500] for e in self.events
                if e.get("method") == "Runtime.exceptionThrown"
                or (e.get("method") == "Runtime.consoleAPICalled" and e["params"]["type"] in ("error", "assert"))]

    def requested(self):
        """Addresses the page asked for, other than those in itself."""
        urls = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [u for u in urls if not u.startswith(("data:", "blob:"))]

    def picture(self):
        """What the window shows, (height, width, 3) uint8; needs Pillow."""
        image = pytest.importorskip("PIL.Image", reason="reading a screenshot needs Pillow")
        import numpy as np

        data = base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
        return np.asarray(image.open(io.BytesIO(data)).convert("RGB"))

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.into)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium on this machine")
    browser = Browser(program, tmp_path_factory.mktemp("chromium"), (800, 600))
    yield browser
    browser.close()

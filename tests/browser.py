"""
One headless Chromium for all pages of a test, driven through its DevTools protocol: widths, colour schemes and print are those that a reader
has, and what the console says is an event. Run: python -m tests.browser build/docs opens pages of the
built documentation, as ``make docs`` does.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, PROGRAMS)), None)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
    "--disable-dev-shm-usage",  # a container often has 64 MB there
)
WIDTHS = (390, 800, 1100)
SCHEMES = ("light", "dark")
PAPER = 718  # pixels of A4 between its margins
LOADED = {"Page.loadEventFired"}
SAID = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
FINDINGS = Path(__file__).with_suffix(".js").read_text()


class Browser:
    """One page of a browser. ``said``: what the console said of the page that is open."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._rest, self._last = to_browser, from_browser, b"", 0
        self.said: list[str] = []
        self._seen: set[str] = set()
        self._session = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def _message(self, seconds: float = 60.0) -> dict:
        """The next message of the browser; what the console says is kept."""
        limit = time.monotonic() + seconds
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], max(0.0, limit - time.monotonic()))[0]:
                raise TimeoutError(f"the browser said nothing for {seconds:g} s")
            if not (part := os.read(self._from, 1 << 20)):
                raise EOFError("the browser ended")
            self._rest += part
        text, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(text)
        if message.get("method") in SAID:
            self.said.append(json.dumps(message["params"]))
        self._seen.add(message.get("method", ""))
        return message

    def _call(self, method: str, **parameters: object) -> dict:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._last:
            pass
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def open(self, url: str) -> None:
        """Open a page and wait until it is loaded, with its pictures."""
        self.said.clear()
        self._seen.clear()
        if error := self._call("Page.navigate", url=url).get("errorText"):
            raise FileNotFoundError(f"{url}: {error}")  # an empty page would have nothing that is wrong
        while not self._seen & LOADED:
            self._message()

    def show(self, width: int, scheme: str = "light", media: str = "screen") -> None:
        """Let the page be as wide as this, in light or dark, on a screen or on paper."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", media=media, features=features)

    def value(self, script: str) -> object:
        """The value of an expression in the page."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path: Path, height: int = 0) -> None:
        """Write the whole page, or its first ``height`` pixels, as PNG."""
        clip = {}
        if height:
            width = self.value("document.documentElement.clientWidth")
            clip = {"clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}}
        data = self._call("Page.captureScreenshot", captureBeyondViewport=True, **clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def printed(self, path: Path) -> None:
        """Write the page as PDF, as a reader prints it."""
        path.write_bytes(base64.b64decode(self._call("Page.printToPDF")["data"]))

    def _wrong(self, scrolls: bool) -> list[str]:
        """What is wrong with the page as it is shown now; ``scrolls``: also where a table scrolls."""
        return self.value(f"({FINDINGS})({json.dumps({'scrolls': scrolls})})")

    def findings(self, name: str, url: str, wide: int = PAPER) -> list[str]:
        """
        Open a page and return what is wrong with it: what the console said; at each width and on paper whether something overflows, at ``wide`` and more
        also within a table that scrolls; pictures without a text or that did not load; in each scheme, text with too little contrast.
        """
        self.open(url)
        found = []
        for width in WIDTHS:
            for scheme in SCHEMES if width == WIDTHS[-1] else SCHEMES[:1]:
                self.show(width, scheme)
                found += [f"{name}, {width} px, {scheme}: {one}" for one in self._wrong(width >= wide)]
        self.show(PAPER, media="print")
        found += [f"{name}, on paper: {one}" for one in self._wrong(wide <= PAPER)]
        return found + [f"{name}: the console said {one}" for one in self.said]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start the browser, with an empty profile; end it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        read_in, write_in = os.pipe()
        read_out, write_out = os.pipe()

        def pipes() -> None:
            """The protocol's pipes are the descriptors 3 and 4, whatever ours are."""
            high = os.dup(read_in), os.dup(write_out)
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        process = subprocess.Popen(
            [BROWSER, *OPTIONS, f"--user-data-dir={profile}"],
            preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_in)
        os.close(write_out)
        try:
            yield Browser(write_in, read_out)
        finally:
            process.terminate()
            process.wait(30)
            os.close(write_in)
            os.close(read_out)


# A page of each kind of the documentation: tables, commands, outputs, figures, notebooks, generated references.
DOCS = (
    *(
        "docs/index",
        "docs/tutorials/digits",
        "docs/notebooks/compare",
        "docs/howto/index",
        "docs/howto/read-the-report",
    ),
    *(
        "docs/reference/methods",
        "docs/reference/settings",
        "docs/explanation/dp-for-a-committee",
        "docs/transfer",
    ),
    *("simulations/results/README", "simulations/results/digits", "deploy/README", "README"),
)

if __name__ == "__main__":
    root = Path(sys.argv[1]).resolve()
    wrong: list[str] = []
    if BROWSER is None:
        print("no chromium or chromium-headless-shell is installed: the pages are not opened")
    else:
        with browser() as one:
            for page in DOCS:
                wrong += one.findings(page, (root / f"{page}.html").as_uri(), wide=max(WIDTHS) + 1)
    sys.exit("\n".join(wrong) or 0)

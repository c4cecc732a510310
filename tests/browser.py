"""A real Chromium, driven over its debugging pipe: pages are opened, pointed at, resized, printed, and what they say is
kept."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PATIENCE_S = 60


class Browser:
    """One page. It resolves no host name; every request and every console message is kept."""

    def __init__(self, folder: Path):
        self.requests: list[str] = []
        self.console: list[str] = []
        command = [
            str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",  # noqa: E501
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",  # noqa: E501
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", "about:blank",
        ]  # fmt: skip
        (their_in, self._to), (self._from, their_out) = os.pipe(), os.pipe()
        # The pipe's ends are descriptors 3 and 4 there.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec 3<&{their_in} 4>&{their_out}; exec "$@"', "chromium", *command],
            pass_fds=(their_in, their_out), env=os.environ | {"HOME": str(folder)}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(their_in)
        os.close(their_out)
        self._rest, self._last, self._session = b"", 0, ""
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        # CPU time of the page's main thread: what a busy machine does not change.
        self.call("Performance.enable", timeDomain="threadTicks")
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser and wait for the answer; events that come before it are kept."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session and not method.startswith(("Browser.", "Target.")):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = os.read(self._from, 1 << 20)
            assert chunk, "the browser ended"
            self._rest += chunk
        text, _, self._rest = self._rest.partition(b"\0")
        event = json.loads(text)
        params = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event.get("method") == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(part.get("value")) for part in params["args"]))
        elif event.get("method") == "Runtime.exceptionThrown":
            self.console.append(str(params["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            self.console.append(params["entry"]["text"])
        return event

    def show(self, page: Path, width: int = 1280, height: int = 1000, *, scheme: str = "light") -> None:
        """Open a page in a window of that size, for a reader who prefers `scheme`."""
        self.requests.clear()
        self.console.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.prefer(scheme)
        self.call("Page.navigate", url=page.as_uri())
        self.until("document.readyState === 'complete'")

    def prefer(self, scheme: str) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def value(self, expression: str) -> Any:
        """What an expression gives in the page, promises awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until an expression is true in the page."""
        end = time.monotonic() + PATIENCE_S
        while not (value := self.value(expression)):
            assert time.monotonic() < end, f"never true: {expression}; {self.console}"
            time.sleep(0.02)
        return value

    def cpu_seconds(self) -> float:
        """What the page's main thread has worked since it was opened."""
        metrics = self.call("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    def wait_for(self, true: Callable[[], bool]) -> None:
        """Wait until something outside of the page is so."""
        end = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < end, self.console
            time.sleep(0.02)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def screenshot(self, file: Path) -> None:
        picture = self.call("Page.captureScreenshot", format="png")["data"]
        file.write_bytes(base64.b64decode(picture))

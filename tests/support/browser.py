"""A person at a page in headless Chromium, with the keys and clicks of one."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="needs Chromium and its driver (Debian: chromium, chromium-driver)",
)
SECONDS = 30.0


@contextmanager
def opened(profile: Path) -> Iterator[Any]:
    """Chromium, which keeps its files in a folder of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless=new", "--disable-dev-shm-usage", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has none for root
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


class Viewer:
    """Looks at the page of an oracle that a program in another thread is asking, and types.

    Parameters
    ----------
    browser
        What `opened` gives.
    oracle
        A `WebOracle`.
    work
        What asks it.
    """

    def __init__(self, browser: Any, oracle: Any, work: Callable[[], Any]) -> None:
        self.browser, self.oracle = browser, oracle
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()
        self.until(lambda: oracle.url)
        browser.set_window_size(1000, 800)
        browser.get(oracle.url)
        self.reach("asking")

    def _run(self, work: Callable[[], Any]) -> None:
        self.result = work()

    def until(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + SECONDS
        while not (found := condition()):
            assert time.monotonic() < end, f"waited in vain; the page shows: {self.text}"
            time.sleep(0.02)
        return found

    def reach(self, phase: str) -> None:
        self.until(lambda: self.script("return document.body.dataset.phase") == phase)

    def script(self, text: str, *values: Any) -> Any:
        return self.browser.execute_script(text, *values)

    @property
    def text(self) -> str:
        return str(self.browser.find_element(By.TAG_NAME, "body").text)

    def sees(self, text: str) -> None:
        self.until(lambda: text in self.text)

    def find(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def types(self, *keys: str) -> None:
        """Press keys one after the other, each when the page has taken the one before."""
        for key in keys:
            self.until(lambda: not self.script("return busy"))
            webdriver.ActionChains(self.browser).send_keys(key).perform()
        self.until(lambda: not self.script("return busy"))

    def pressed(self) -> list[str]:
        found = self.browser.find_elements(By.CSS_SELECTOR, "#classes [aria-pressed=true]")
        return [button.text for button in found]

    def end(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the program still waits"
        problems = [line["message"] for line in self.browser.get_log("browser")]
        assert problems == []

"""Headless Chromium, if installed, to test pages."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common import exceptions
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver") or shutil.which("chromium.chromedriver")
MISSING = "needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)"


class Browser:
    """Loads pages from disk or by address.

    `console_messages` and `requests` are those of the last page.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def load(
        self, page: Path | str, *, width: int = 1400, height: int = 900, dark: bool = False
    ) -> None:
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        for kind in ("browser", "performance"):
            self._driver.get_log(kind)
        self._driver.get(page if isinstance(page, str) else page.absolute().as_uri())

    def run(self, script: str, *args: object) -> Any:
        """Run the body of a function in the page and return its result."""
        return self._driver.execute_script(script, *args)

    def find(self, selector: str) -> Any:
        return self._driver.find_element("css selector", selector)

    def wait_for(self, selector: str, text: str = "", *, seconds: float = 60) -> Any:
        """Return the first element that a selector finds and whose text has `text` in it."""

        def find(driver: webdriver.Chrome) -> Any:
            found = driver.find_elements("css selector", selector)
            return next((element for element in found if text in element.text), None)

        stale = [exceptions.StaleElementReferenceException]
        return WebDriverWait(self._driver, seconds, ignored_exceptions=stale).until(find)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all visible elements."""
        script = """return [...document.querySelectorAll(arguments[0])]
            .filter((e) => e.getClientRects().length).map((e) => e.innerText)"""
        return list(self.run(script, selector))

    @property
    def console_messages(self) -> list[str]:
        """Errors and warnings of the console, such as violations of the page's policy."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    @property
    def requests(self) -> list[str]:
        """Addresses of all requests, without data URIs and those blocked by the page's policy."""
        events = [json.loads(e["message"])["message"] for e in self._driver.get_log("performance")]
        urls = {
            event["params"]["requestId"]: event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        }
        for event in events:
            if event["params"].get("blockedReason") == "csp":
                del urls[event["params"]["requestId"]]
        return [url for url in urls.values() if not url.startswith("data:")]

    def seconds(self, script: str) -> float:
        """Return the duration of a script and of the drawing after it."""
        began = time.perf_counter()
        self._driver.execute_async_script(
            f"{script}; const done = arguments[0];"
            "requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        )
        return time.perf_counter() - began


@contextmanager
def open_browser() -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox does not work for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()

"""Headless Chromium for the tests of pages."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def chromium(downloads: Path | None = None) -> Iterator:
    """Yields a browser that keeps the messages of the console, and saves downloads in a folder."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = which("chromium")
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1400,900"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(which("chromedriver"))) as driver:
        limited(driver)
        if downloads is not None:
            allowed = {"behavior": "allow", "downloadPath": str(downloads)}
            driver.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
        yield driver


def limited(driver, seconds: float = 60) -> None:
    """Gives pages and scripts a limit, and all requests to the browser, which would otherwise wait for ever."""
    driver.command_executor.client_config.timeout = seconds + 60
    driver.set_page_load_timeout(seconds)
    driver.set_script_timeout(seconds)


def which(program: str) -> str:
    """Returns the path of a program."""
    assert shutil.which(program), f"{program} is not installed"
    return shutil.which(program)


def until(condition, seconds: float = 5.0):
    """Waits for a condition, and returns its first true value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "the page did not reach the expected state"
        time.sleep(0.03)
    return value


def ask(browser, expression: str):
    """Returns the value of a JavaScript expression."""
    return browser.execute_script(f"return {expression}")


def texts(browser, selector: str) -> list[str]:
    """Returns the texts of all elements that a CSS selector finds."""
    return ask(browser, f"Array.from(document.querySelectorAll({selector!r}), (e) => e.textContent)")

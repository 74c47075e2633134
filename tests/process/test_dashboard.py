"""The page of the admin listener, in a real browser."""

import os
import pathlib
import re

import pytest

import browser as chromium
from admin import Admin

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not chromium.find(), reason="no Chromium on this machine")]


@pytest.fixture(scope="module")
def browser():
    browser = chromium.Browser()
    yield browser
    browser.close()


def screenshot(page, name):
    """Kept where RINGGATE_SCREENSHOTS says, for somebody to look at."""
    directory = os.environ.get("RINGGATE_SCREENSHOTS")
    if directory:
        import base64

        data = page.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        pathlib.Path(directory, f"{name}.png").write_bytes(base64.b64decode(data))


def view(page, width, height, dark):
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
    scheme = "dark" if dark else "light"
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


def text(page, selector):
    return page.run(f"document.querySelector({selector!r})?.innerText")


def test_it_loads_nothing_from_elsewhere(gateway):
    with Admin(gateway) as admin:
        status, page, headers = admin.get("/")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//""", page)
    assert not re.search(r"@import|url\(\s*['\"]?https?:", page)


def test_live_figures_and_the_playground(start, connect, browser):
    gateway = start()
    clients = [connect(gateway, f"u{n}") for n in range(5)]
    for client in clients:
        client.request("join", roomId="big room")
    page = browser.page(f"http://{gateway.admin}/")
    view(page, 1200, 900, dark=False)
    page.wait("document.querySelector('#state').textContent === 'ready'")
    page.wait("document.querySelector('#tiles').innerText.startsWith('5')")
    page.wait("document.querySelectorAll('#plots polyline').length >= 6")
    assert page.run("document.querySelectorAll('#shards tbody tr').length") == 2
    assert "big room" in text(page, "#rooms")
    assert page.run("document.querySelector('#keyform').offsetParent === null"), "no key is asked for"
    # Two users, by keyboard, and a message between them.
    page.wait("document.querySelectorAll('.user').length === 2")
    for user in ("alice", "bob"):
        page.run(f"document.querySelector('[data-user={user}] .who').focus()")
        page.call("Input.dispatchKeyEvent", type="keyDown", text="\r", key="Enter", code="Enter", windowsVirtualKeyCode=13)
        page.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter", windowsVirtualKeyCode=13)
        page.wait(f"document.querySelector('[data-user={user}] .status').textContent === 'connected as {user}'")
    page.run("document.querySelector('[data-user=alice] .text').value = ''")
    page.type("[data-user=alice] .text", "hello from the page")
    page.wait("document.querySelector('[data-user=bob] .log').innerText.includes('hello from the page')")
    page.wait("document.querySelector('[data-user=alice] .log').innerText.includes('\"status\":\"delivered\"')")
    for user in ("alice", "bob"):
        page.run(f"document.querySelector('[data-user={user}] .enter').click()")
        # One after the other: whoever is in first hears of the second.
        page.wait(f"/\"ok\".*roomId/.test(document.querySelector('[data-user={user}] .log').innerText)")
    page.wait("document.querySelector('[data-user=alice] .log').innerText.includes('user:joined')")
    # Finding connections.
    page.run("document.querySelector('#find button').click()")
    page.wait("document.querySelectorAll('#conns tbody tr').length === 7")
    assert page.run("document.querySelector('#notice').textContent") == ""
    screenshot(page, "dashboard-light")
    view(page, 1200, 900, dark=True)
    page.wait("getComputedStyle(document.documentElement).backgroundColor === 'rgb(15, 18, 22)'")
    screenshot(page, "dashboard-dark")
    view(page, 390, 844, dark=True)
    page.wait("document.documentElement.scrollWidth <= 390")
    screenshot(page, "dashboard-phone")
    # Leaving shows.
    page.run("document.querySelector('[data-user=bob] .toggle').click()")
    page.wait("document.querySelector('[data-user=bob] .status').textContent === 'closed 1000'")


def test_names_of_users_are_text(start, connect, browser):
    """What clients call themselves is shown, never run."""
    gateway = start()
    name = "<img src=x onerror=\"document.title='pwned'\">"
    client = connect(gateway, name, exact=True)
    client.request("join", roomId=name)
    page = browser.page(f"http://{gateway.admin}/")
    page.wait("document.querySelector('#rooms').innerText.includes('<img src=x')")
    page.run("document.querySelector('#find button').click()")
    page.wait("document.querySelector('#conns').innerText.includes('<img src=x')")
    assert page.run("document.title") == "ringgate"


def test_it_asks_for_the_key(start, browser):
    gateway = start({"api.keys": ["secret-key"]})
    page = browser.page(f"http://{gateway.admin}/")
    page.wait("!document.querySelector('#keyform').hidden")
    page.type("#key", "secret-key")
    page.wait("document.querySelector('#state').textContent === 'ready'")

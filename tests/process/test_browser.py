"""The chat page of the README, in a real browser."""

import functools
import http.server
import pathlib
import re
import threading

import pytest

import browser as chromium

README = pathlib.Path(__file__).resolve().parents[2] / "README.md"

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not chromium.find(), reason="no Chromium on this machine")]


@pytest.fixture(scope="module")
def browser():
    browser = chromium.Browser()
    yield browser
    browser.close()


@pytest.fixture
def serve(tmp_path):
    """Serves a page on a port of its own; returns its address."""
    servers = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    def serve(html):
        (tmp_path / "index.html").write_text(html)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def chat_page(gateway):
    """The snippet of the README, with this gateway's address in place of the default one."""
    (snippet,) = re.findall(r"```html\n(.*?)```", README.read_text(), re.S)
    assert snippet.count("127.0.0.1:8080") == 1
    return snippet.replace("127.0.0.1:8080", gateway.client)


def test_two_pages_chat(gateway, browser, serve):
    address = serve(chat_page(gateway))
    first = browser.page(address)
    first.wait("socket.readyState === 1 && document.body.innerText.length > 0")
    second = browser.page(address)
    second.wait("socket.readyState === 1")
    first.wait("document.body.innerText.includes(' came in')")
    first.type("input", "Guten Tag, 世界 😀")
    second.wait("document.body.innerText.includes('Guten Tag, 世界 😀')")
    second.type("input", "<b>hello</b>")
    first.wait("document.body.innerText.includes('<b>hello</b>')")  # as text: a chat must not run what others write
    assert first.run("socket.extensions").startswith("permessage-deflate")


def test_a_page_of_a_foreign_origin_is_refused(start, browser, serve):
    gateway = start({"listen.allowed_origins": ["https://app.example"]})
    page = browser.page(serve("<!doctype html><body>page</body>"))
    code = page.run(
        f"new Promise(done => {{ const s = new WebSocket('ws://{gateway.client}/ws?user_id=eve');"
        " s.onopen = () => done('open'); s.onclose = event => done(event.code); })"
    )
    assert code == 1006


def test_a_browser_sees_code_and_reason_of_a_close(gateway, browser, serve):
    page = browser.page(serve("<!doctype html><body>page</body>"))
    got = page.run(
        f"new Promise(done => {{ const s = new WebSocket('ws://{gateway.client}/ws');"
        " s.onclose = event => done([event.code, event.reason, event.wasClean]); })"
    )
    assert got == [4001, "Missing user_id", True]

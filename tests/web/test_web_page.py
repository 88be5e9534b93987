"""The page in a real browser, from the service and as one file; skipped without Chromium or Playwright."""

import os
import re
import shutil
import threading
import time

import pytest
import yaml
from asgi import BITS, DEPTH

from unicuco_plugin.answering import load_profile
from unicuco_plugin.errors import ExportError
from unicuco_plugin.web.embedded import save_page
from unicuco_plugin.web.library import Served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = {"phone": (360, 780), "tablet": (820, 1180), "desktop": (1440, 900)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    save_page(Served.of(DEPTH, load_profile(DEPTH)), path)
    return path


def test_the_file_holds_what_it_shows_and_asks_nobody(written):
    text = written.read_text(encoding="utf8")
    assert "connect-src 'none'" in text
    assert f'"name": "{DEPTH}"' in text
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []


def test_only_a_page_of_ours_is_replaced(written, tmp_path):
    served = Served.of(DEPTH, load_profile(DEPTH))
    save_page(served, written)
    other = tmp_path / "other.html"
    other.write_text("<p>mine")
    with pytest.raises(ExportError, match="is not a page of unicuco's; it will not be replaced"):
        save_page(served, other)
    with pytest.raises(ExportError, match=r"a page's name must end in \.html$"):
        save_page(served, tmp_path / "page.txt")
    assert other.read_text() == "<p>mine"


def test_a_name_in_a_profile_is_only_text(tmp_path):
    profile = load_profile(DEPTH)
    name = "</script><script>alert(1)</script>"
    save_page(Served.of(name, profile), tmp_path / "page.html")
    assert "alert(1)</script>" not in (tmp_path / "page.html").read_text(encoding="utf8")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: the extra [browser]")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path: apt-get install chromium")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=WIDTHS)
def page(request, browser):
    """A page of one of three widths; whatever it complains of fails the test."""
    width, height = WIDTHS[request.param]
    page = browser.new_page(viewport={"width": width, "height": height})
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield page
    page.close()
    assert complaints == []


@pytest.fixture(scope="module")
def address():
    """A service of two profiles on the loopback address, in a thread."""
    from uvicorn import Config, Server

    from unicuco_plugin.web.app import make_app

    server = Server(Config(make_app([DEPTH, BITS]), port=0, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


def shown(page, row):
    """What the answer's table says in one row."""
    return page.inner_text(f"#answer tr:has(th:text-is('{row}')) td >> nth=0")


def wait(page, place, text):
    """Until it is shown; the page's policy lets nobody evaluate text, so this looks from outside."""
    for _ in range(200):
        if text in page.inner_text(place):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{text!r} is not shown in {page.inner_text(place)!r}")


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.slow
def test_a_file_answers_by_keyboard_alone(page, written):
    page.goto(written.as_uri())
    page.wait_for_selector("#answer td")
    assert fits(page)
    before = shown(page, "weight files")
    page.focus("#slider")
    page.keyboard.press("End")
    wait(page, "#answer", "1 of 30")
    assert shown(page, "weight files") != before
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # keeps it as B
    page.focus("#slider")
    page.keyboard.press("Home")
    wait(page, "#answer", "29 of 30")
    assert page.locator("#answer thead th").all_text_contents() == ["A", "B", "B to A"]
    assert page.locator("#maps svg").count() == 2
    assert page.locator("#maps svg >> nth=0").locator(".c6").count() == 29


@pytest.mark.slow
def test_the_service_shows_the_command_lines_answer(page, address):
    page.goto(address)
    page.wait_for_selector("#answer td")
    page.select_option("#profile", BITS)
    wait(page, "#about", "120 units")
    page.click("button:text-is('Bits')")
    page.focus("#slider")
    page.keyboard.press("PageDown")
    wait(page, "#answer", "asked\tbits ")
    page.wait_for_timeout(500)
    page.click("button:text-is('Ask only')")
    bits = re.fullmatch(rf"unicuco strategy {BITS} --bits ([\d.]+) --json", page.inner_text("#text"))[1]
    answer = load_profile(BITS).answer(bits=float(bits))
    assert shown(page, "bits a weight") == f"{answer.bits:.3f}"
    assert shown(page, "divergence") == f"{answer.divergence.mean:.4g}"
    page.click("button:text-is('Recipe')")
    source = yaml.safe_load(page.inner_text("#text"))["quantization_stage"]["quantization_modifiers"]
    assert source["SparsityProfileModifier"] == {"profile": BITS, "request": {"bits": float(bits)}}
    assert page.locator("#front .dot").count() + page.locator("#front .guess").count() == 20
    assert fits(page)
    page.fill("#context", "8192")
    wait(page, "#answer", "of it cache")
    memory = load_profile(BITS).answer(bits=float(bits), context=8192).memory
    for row, count in {"memory": memory.total, "of it cache": memory.cache, "of it weights": memory.weights}.items():
        assert shown(page, row) == f"{count / 1e6:.4g} MB"
    page.click("button:text-is('Ask only')")
    assert page.inner_text("#text") == f"unicuco strategy {BITS} --bits {bits} --context 8192 --json"
    assert fits(page)
    page.fill("#context", "")
    if folder := os.environ.get("UNICUCO_PICTURES"):  # docs/figures/page-*.png are made so
        page.click("#keep")
        page.focus("#slider")
        page.keyboard.press("PageUp")
        page.keyboard.press("PageUp")
        page.wait_for_timeout(500)
        page.screenshot(path=f"{folder}/page-{page.viewport_size['width']}.png", full_page=True)

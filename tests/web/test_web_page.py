"""The page in a real browser, from the service and as one file; skipped without Chromium or Playwright."""

import re
import shutil
import threading
import time

import pytest
import yaml
from asgi import BITS, DEPTH
from device_tables import made_table

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.errors import ExportError
from unicuco_plugin.files.received import parse_json
from unicuco_plugin.profile import find_profile, read_profile
from unicuco_plugin.quantities import Load
from unicuco_plugin.request import LOADED
from unicuco_plugin.web.embedded import save_page
from unicuco_plugin.web.library import Served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = {"phone": (360, 780), "tablet": (820, 1180), "desktop": (1440, 900)}
TABLE = made_table(load_profile(DEPTH).model.fingerprint)
TIMED = Profile(*read_profile(find_profile(DEPTH)), TABLE)
LOAD = Load(200, 2, phase="prefill")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    save_page(Served.of(DEPTH, load_profile(DEPTH)), path)
    return path


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    save_page(Served.of(DEPTH, TIMED), path, LOAD)
    return path


@pytest.mark.slow
def test_a_file_under_a_load_has_an_answer_at_every_place_of_every_slider(loaded):
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', loaded.read_text(encoding="utf8"))
    [data] = parse_json(text)["profiles"]
    assert data["load"] == {"context": 200, "batch": 2, "cache_dtype": None, "phase": "prefill"}
    assert set(LOADED) < set(data["offers"]) == set(data["grids"])
    for kind in data["offers"]:
        assert len(data["grids"][kind]["answers"]) == 41, kind
    assert all(one["memory"] and one["latency"] for one in (*data["strategies"], *data["front"]))
    value, place = data["grids"]["min_speedup"]["values"][20], data["grids"]["min_speedup"]["answers"][20]
    answer = TIMED.answer(min_speedup=value, context=200, batch=2, phase="prefill")
    assert data["strategies"][place]["units"] == answer.units
    assert data["fronts"] == {}  # whole blocks have one


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
def address(tmp_path_factory):
    """A service of two profiles with times of a device, on the loopback address, in a thread."""
    from uvicorn import Config, Server

    from unicuco_plugin.web.app import make_app

    table = tmp_path_factory.mktemp("device") / "t.json"
    TABLE.write(table)
    server = Server(Config(make_app([DEPTH, BITS], device_table=table), port=0, log_level="critical", ws="none"))
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


def wait_gone(page, field):
    for _ in range(200):
        if field not in page.locator("#fields button").all_text_contents():
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{field} is still offered")


def press(page, field):
    """Choose what to ask for by keyboard, at the least and the most of which there is an answer; both rows shown."""
    page.focus(f"#fields button:text-is('{field}')")
    page.keyboard.press("Enter")
    name = page.get_attribute("#fields button[aria-pressed=true]", "data-name").replace("_", " ")
    ends = []
    for key in ("End", "Home"):
        page.focus("#slider")
        page.keyboard.press(key)
        asked = page.inner_text("#value").removeprefix("at most ").removeprefix("at least ").removesuffix(" as fast")
        wait(page, "#answer", f"asked\t{name} {asked}, context 200, batch 2")
        assert page.inner_text("#error") == ""
        ends.append(page.inner_text("#answer"))
    return ends


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
    wait_gone(page, "Memory")


@pytest.mark.slow
def test_a_load_brings_memory_latency_and_speed(page, address):
    page.goto(address)
    page.wait_for_selector("#answer td")
    assert "for 100 to 300 tokens and 1 to 4 at once" in page.inner_text("#loaded")
    page.focus("#context")
    page.keyboard.type("200")
    page.keyboard.press("Tab")
    page.keyboard.type("2")  # in place of the 1, which the tab selected
    wait(page, "#fields", "Speed-up")
    wait(page, "#answer", "batch 2")
    for field in ("Memory", "Latency", "Speed-up"):
        first, second = press(page, field)
        assert first != second
        assert {"Memory": "memory of a server", "Latency": "one more token"}.get(field, "times as fast") in (
            page.locator("#front text").last.text_content()
        )
        assert page.locator("#front .dot, #front .guess").count() == 29
        assert page.locator("#front .mark-a").count() == 2
    page.click("button:text-is('Ask only')")
    page.select_option("#phase", "prefill")
    wait(page, "#text", "--phase prefill")
    said = page.inner_text("#text")
    pattern = (
        rf"unicuco strategy {DEPTH} --min-speedup ([\d.]+) --context 200 --batch 2 --phase prefill "
        r"--device-table device\.json --json"
    )
    speed = float(re.fullmatch(pattern, said)[1])
    answer = TIMED.answer(min_speedup=speed, context=200, batch=2, phase="prefill")
    for phase, row in (("decode", "one more token"), ("prefill", "the prompt")):
        took, dense = getattr(answer.latency, phase), getattr(answer.latency, f"dense_{phase}")
        assert shown(page, row) == f"{float(f'{took:.4g}'):g} ms, {dense / took:.2f} times as fast"
    page.click("button:text-is('Python')")
    assert (
        page.inner_text("#text")
        .rstrip()
        .endswith(
            f"load_profile('{DEPTH}', device_table='device.json').answer(**{{\"min_speedup\": {speed:g}, "
            '"context": 200, "batch": 2, "phase": "prefill"})'
        )
    )
    page.click("button:text-is('Recipe')")
    source = yaml.safe_load(page.inner_text("#text"))["pruning_stage"]["pruning_modifiers"]["SparsityProfileModifier"]
    assert source["device_table"] == "device.json"
    assert source["request"] == {"min_speedup": speed, "context": 200, "batch": 2, "phase": "prefill"}
    assert fits(page)
    page.fill("#context", "8192")
    wait(page, "#loaded", "context must be in 100 to 300, where the device table has times, got 8192")
    assert {"Memory"} == {"Memory", "Latency", "Speed-up"} & set(page.locator("#fields button").all_text_contents())
    page.select_option("#profile", BITS)  # which keeps the load
    wait(page, "#loaded", "it needs their times")
    wait(page, "#answer", "of it cache")
    page.fill("#context", "")
    wait_gone(page, "Memory")
    assert fits(page)


@pytest.mark.slow
def test_a_file_under_a_load_shows_which_and_asks_nobody(page, loaded):
    page.goto(loaded.as_uri())
    page.wait_for_selector("#answer td")
    assert "Counted with sequences of 200 tokens, 2 at once, speed of reading." in page.inner_text("#loaded")
    assert not page.is_visible("#context")
    for field in ("Memory", "Latency", "Speed-up"):
        first, second = press(page, field)
        assert first != second
    assert "--phase prefill --device-table device.json" in page.inner_text("#text")
    assert fits(page)

"""Pictures of the page at three widths, in a real browser: docs/figures/page-*.png.

    python benchmarks/page_pictures.py smollm2-135m-instruct-structured --device-table device.json --context 512 \
        --output docs/figures

It needs Chromium and the extras [serve] and [browser]. One answer to a speed-up is kept as B, a larger one is A.
"""

import argparse
import shutil
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from uvicorn import Config, Server

from unicuco_plugin.web.app import make_app

SIZES = {360: 780, 820: 1180, 1440: 900}
COLOURS = 64  # of a picture: a third of its bytes


def wait(page: Page, place: str, text: str) -> None:
    """Until a text is shown."""
    page.locator(place, has_text=text).first.wait_for(timeout=300_000)


def draw(page: Page, address: str, context: int) -> None:
    """Ask for two speed-ups under a load, the first kept as B."""
    page.goto(address)
    page.fill("#context", str(context))
    page.locator("#fields button", has_text="Speed-up").click(timeout=300_000)
    page.focus("#slider")
    page.keyboard.press("Home")
    for place, keep in ((150, True), (320, False)):
        page.locator("#slider").fill(str(place))
        wait(page, "#answer", f"{page.inner_text('#value').split()[2]} ×")
        page.wait_for_selector("#front:not([aria-busy=true])", timeout=300_000)
        if keep:
            page.click("#keep")
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")


def main() -> None:
    """Serve the profile, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("--device-table", type=Path, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="A folder.")
    given = parser.parse_args()
    app = make_app([given.profile], device_table=given.device_table)
    server = Server(Config(app, port=0, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.05)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
        with sync_playwright() as running:
            browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for width, height in SIZES.items():
                scheme: Literal["dark", "light"] = "dark" if width == 820 else "light"
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                draw(page, address, given.context)
                picture = Image.open(BytesIO(page.screenshot(full_page=True)))
                picture.convert("RGB").quantize(COLOURS).save(given.output / f"page-{width}.png", optimize=True)
            browser.close()
    finally:
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()

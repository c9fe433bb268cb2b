"""The notebooks as a student meets them: real JupyterLab, real Chromium."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lib.execute import execute

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SHOTS = ROOT / "result" / "screenshots"  # ignored by git

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A results folder in which the baseline was trained, in the smoke profile."""
    out = tmp_path_factory.mktemp("result")
    patch = pytest.MonkeyPatch()
    for name, value in {"PROFILE": "smoke", "DATA": "phantom", "OUT": str(out)}.items():
        patch.setenv(f"KIT_{name}", value)
    with pytest.MonkeyPatch.context() as text_bars:
        text_bars.setenv("KIT_PROGRESS", "text")
        execute(ROOT / "train_default.ipynb", out / "train_default.ipynb")
    yield out
    patch.undo()


@pytest.fixture(scope="module")
def server(environment):
    """A JupyterLab on a copy of the notebooks; its address."""
    folder = environment / "lab"
    folder.mkdir()
    shutil.copy(ROOT / "inference.ipynb", folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
               f"--port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}",
               "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    paths = os.environ | {"PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(folder / ".jupyter")}
    paths.pop("KIT_PROGRESS", None)
    process = subprocess.Popen(command, cwd=folder, env=paths, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=1)
                break
            except OSError:
                time.sleep(0.25)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def page(server):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[
            "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"])
        # tall: JupyterLab draws only the cells that are on screen
        page = browser.new_page(viewport={"width": 1200, "height": 5200})
        page.goto(f"{server}/lab/tree/inference.ipynb")
        page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for(timeout=90_000)
        yield page
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / "inference.png")
        browser.close()


def test_run_all_and_browse_slices(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    picture = page.locator(".jupyter-widgets img").first
    picture.wait_for(timeout=180_000)
    errors = page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()
    assert not errors
    readout = page.locator(".widget-readout").first
    before, number = picture.get_attribute("src"), int(readout.inner_text())

    slider = page.locator(".widget-slider [role=slider], .widget-slider .noUi-handle").first
    slider.focus()
    slider.press("ArrowRight")
    page.wait_for_function("([image, old]) => image.src !== old", arg=[picture.element_handle(), before])
    assert int(readout.inner_text()) == number + 1

    menu = page.locator("select").filter(has_text=re.compile("PHANTOM_")).first
    assert "DSC" in menu.inner_text()
    shown = picture.get_attribute("src")
    menu.select_option(index=1)
    page.wait_for_function("([image, old]) => image.src !== old", arg=[picture.element_handle(), shown])

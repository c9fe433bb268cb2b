"""The picture of the slice browser in the README, phantoms only: ``python -m tests.viewer.picture
img/viewer.png``

Trains two small networks on the phantom for a minute, exports both to a file, and photographs it in
Chromium."""

import dataclasses
import sys
import tempfile
from pathlib import Path

from lib.config import REFERENCE
from lib.dataset import load_data
from lib.phantom import PHANTOM_FOLDER, write_phantom
from lib.predict import predict
from lib.train import fit
from lib.viewer import browse
from tests.viewer.test_in_jupyterlab import CHROMIUM

BASE = dataclasses.replace(
    REFERENCE,
    sampling="fresh",
    padding="background",
    image_size=96,
    init_features=8,
    batch_size=8,
    lr=1e-3,
)


def export(folder: Path) -> Path:
    """The browser of both networks as a file."""
    data, runs = load_data(write_phantom(PHANTOM_FOLDER), 96), {}
    for epochs in (4, 10):
        run = fit(dataclasses.replace(BASE, epochs=epochs), data, folder)
        runs[f"after {epochs} epochs"] = predict(run.weights, data, patients=run.unseen(data))
    return browse(runs).to_html(folder / "browser.html")


def photograph(file: Path, picture: Path) -> None:
    """A picture of the page as it opens."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1080, "height": 800})
        page.goto(file.as_uri())
        page.locator(".slices[data-shown]").wait_for()
        page.locator(".slices").screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        photograph(export(Path(temporary)), Path(sys.argv[1]))

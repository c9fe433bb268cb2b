"""The slice browser as a student meets it: real JupyterLab, the exported file without a network,
real Chromium.
"""

import base64
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
import tifffile
from PIL import Image

from lib.dataset import load_data
from lib.notebook.execute import execute
from lib.phantom import PHANTOM_FOLDER, make_patient, write_phantom
from lib.plot.pixels import CHANNELS, FLAIR, brightest, colour_table, kinds
from lib.viewer import browse
from tests.conftest import NAMES, brain, write_patient
from tests.viewer.test_browser import EDGE_CASES, edge_case, prediction

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
SHOTS = ROOT / "result" / "screenshots"  # ignored by git
PRESSES = 40

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

# what a student would write without the kit, to compare with
INTERACT = """
import matplotlib.pyplot as plt
from ipywidgets import interact
from lib.notebook import start
from lib.config import REFERENCE
data = start().load(start().config(REFERENCE))
patient = max(data.patients, key=lambda name: data.record(name).tumour_slices)
volume, truth = data.volume(patient)[..., 1], data.truth(patient)

@interact(number=(0, len(volume) - 1))
def show(number):
    plt.figure(figsize=(5, 5))
    plt.imshow(volume[number], cmap="gray")
    plt.contour(truth[number], levels=[0.5], colors=["yellow"])
    plt.axis("off")
    plt.show()
"""

LIVE = """
from dataclasses import replace
import lib.plot.live
from lib.config import REFERENCE
from lib.notebook import start
from lib.train import fit
lib.plot.live._SHARE = 9  # draw after every epoch, however short
session = start()
config = replace(session.config(REFERENCE), epochs=8)
run = fit(config, session.load(config), session.out, watch=lib.plot.live.LiveView())
print("finished")
"""

LARGE = """
from lib.dataset import load_data
from lib.viewer import browse
from tests.viewer.test_browser import prediction
data = load_data("{folder}", 64)
browse([prediction(data, 1), prediction(data, 4)])
"""

# from the choice of a patient to the end of the frame in which it is on the screen, and until all
# slices are there
OPENING = """async (name) => {
  const [root, menu] = ['.slices', '.slices select'].map((where) => document.querySelector(where));
  const start = performance.now();
  menu.value = name;
  menu.dispatchEvent(new Event('change'));
  const until = (place) => new Promise((resolve) => {
    const done = () => resolve(performance.now() - start);
    const look = () => place()?.startsWith(name) ? setTimeout(done)
      : requestAnimationFrame(look);
    look();
  });
  return [await until(() => root.dataset.shown), await until(() => root.dataset.loaded)];
}"""

# the browser of a notebook, whose kernel takes a moment for each answer
SLOW_KERNEL = """async ([program, patients]) => {
  const { render } = (await import(`data:text/javascript,${encodeURIComponent(program)}`)).default;
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  let receive, queue = Promise.resolve();
  const answer = async (question) => {
    await new Promise((done) => setTimeout(done, 100));
    const [reply, buffers] = await window.answer(question);
    receive(reply, buffers.map(bytes));
  };
  const send = (question) => { queue = queue.then(() => answer(question)); };
  const model = { get: () => patients, on: (_, found) => { receive = found; }, send };
  render({ model, el: document.body });
}"""

# a patient is chosen, and at once a sequence
CHOOSING = """(name) => {
  const menu = document.querySelector('.slices select');
  menu.value = name;
  menu.dispatchEvent(new Event('change'));
  document.querySelector('.slices .buttons button').click();
}"""

# in every frame of the screen: how often the picture changed, and in how many frames there was none
# or of other size
FLICKER = """() => {
  window.frames_seen = { changes: 0, without: 0, heights: [] };
  let last = null;
  const look = () => {
    const image = document.querySelector('.jp-RenderedImage img');
    if (image && image.complete && image.naturalWidth) {
      if (image.src !== last) window.frames_seen.changes += 1;
      last = image.src;
    } else if (last) window.frames_seen.without += 1;
    const area = document.querySelector('.jp-RenderedImage');
    if (last && area && !window.frames_seen.heights.includes(area.clientHeight))
      window.frames_seen.heights.push(area.clientHeight);
    requestAnimationFrame(look);
  };
  look();
}"""

# from the key event to the end of the frame in which the picture is another one
TIMER = """(picture) => {
  const now = eval(picture);
  window.waits = [];
  window.addEventListener("keydown", (event) => {
    const before = now();
    const look = () => {
      if (now() === before) return requestAnimationFrame(look);
      const painted = new MessageChannel();
      painted.port1.onmessage = () => window.waits.push(performance.now() - event.timeStamp);
      painted.port2.postMessage(null);
    };
    requestAnimationFrame(look);
  }, true);
}"""


def phantom_head(seed):
    """A phantom of 256x256 whose slices are repeated to 88."""
    volume, mask = make_patient(0, seed, 256)
    numbers = np.arange(88) * len(volume) // 88
    return volume[numbers], mask[numbers]


LARGE_KINDS = {"phantom": phantom_head, "noise": lambda seed: brain(seed, 88, 256, 256)}
SHOWN = "() => document.querySelector('.slices').dataset.shown"
FIGURE = """() => [...document.querySelectorAll('.jp-OutputArea img')].map(
  (image) => image.complete && image.naturalWidth ? image.src : 'loading').join()"""


def median_wait(page, picture, focus):
    """Median milliseconds from a key press to the new picture."""
    page.evaluate(TIMER, picture)
    focus.focus()
    page.keyboard.press("Home")
    page.wait_for_timeout(1000)
    page.evaluate("() => { window.waits.length = 0; }")
    for number in range(PRESSES):
        page.keyboard.press("ArrowRight" if number // 10 % 2 == 0 else "ArrowLeft")
        page.wait_for_function("(n) => window.waits.length === n", arg=number + 1, timeout=20_000)
    return float(np.median(page.evaluate("() => window.waits")))


# --- machinery ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A results folder in which the baseline was trained, in the smoke profile."""
    out = tmp_path_factory.mktemp("result")
    with pytest.MonkeyPatch.context() as patch:
        values = {
            "PROFILE": "smoke",
            "DATA": "phantom",
            "OUT": str(out),
            "PROGRESS": "text",
            "CACHE": str(out / "cache"),
        }
        for name, value in values.items():
            patch.setenv(f"KIT_{name}", value)
        execute(ROOT / "train_default.ipynb", out / "train_default.ipynb")
        yield out


@pytest.fixture(scope="module")
def server(environment):
    """A JupyterLab on a copy of the notebooks; its address."""
    folder = environment / "lab"
    folder.mkdir()
    shutil.copy(ROOT / "inference.ipynb", folder)
    for name, code in {
        "interact": INTERACT,
        "live": LIVE,
        **{f"large_{kind}": LARGE.format(folder=f"large_{kind}") for kind in LARGE_KINDS},
    }.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        notebook.metadata = nbformat.read(ROOT / "inference.ipynb", as_version=4).metadata
        nbformat.write(notebook, folder / f"{name}.ipynb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--port={port}",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    paths = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "JUPYTER_CONFIG_DIR": str(folder / ".jupyter"),
    }
    paths.pop("KIT_PROGRESS")
    process = subprocess.Popen(
        command, cwd=folder, env=paths, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
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


def watched(context):
    """A new page, and the list of what goes wrong on it."""
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type == "error" else None,
    )
    return page, problems


def run_all(context, address, name):
    """Open a notebook in JupyterLab and run its cells."""
    page, problems = watched(context)
    # JupyterLab asks for a kernel when another page has the folder open
    page.add_locator_handler(
        page.locator(".jp-Dialog .jp-mod-accept"), lambda button: button.click()
    )
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for(timeout=90_000)
    problems.clear()  # those of JupyterLab's own start are not ours
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    return page, problems


@pytest.fixture(scope="module")
def lab(chromium, server):
    """inference.ipynb, run in JupyterLab, with its slice browser in view; and what went wrong on
    the page.
    """
    # tall: JupyterLab draws only the cells that are on screen
    context = chromium.new_context(viewport={"width": 1200, "height": 5200})
    page, problems = run_all(context, server, "inference.ipynb")
    page.locator(".slices[data-shown]").wait_for(timeout=180_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for(timeout=90_000)
    yield page, problems
    page.screenshot(path=SHOTS / "inference.png")
    context.close()


# --- what should be on the screen -----------------------------------------------------------------


def picture(page, panel=0):
    """The image of a panel as the browser holds it, ``(H, W, 3)`` uint8."""
    address = page.evaluate(
        "(i) => document.querySelectorAll('.slices canvas.image')[i].toDataURL()", panel
    )
    raw = urllib.request.urlopen(address).read()
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))


def shown(page):
    """(patient, channel, slice) of the picture."""
    patient, channel, number = page.locator(".slices").get_attribute("data-shown").split("/")
    return patient, int(channel), int(number)


def expected(data, place, mask, overlay="off", opacity=0.4):
    """What numpy makes of the same slice."""
    patient, channel, number = place
    volume, truth = data.volume(patient), data.truth(patient)
    table = colour_table(overlay, opacity, (0, brightest(volume[..., channel])))
    image = volume[number, ..., channel]
    return table[kinds(truth[number], None if mask is None else mask[number], image.shape), image]


def predicted_mask(out, data, patient):
    [folder] = out.glob(f"prediction/*/*/{patient}")
    files = [folder / f"{patient}_{number}_mask.tif" for number in data.patients[patient].numbers]
    return (np.stack([tifffile.imread(file) for file in files]) > 0).astype(np.uint8)


def choose(page, label, value):
    page.locator(f"select[aria-label='{label}']").select_option(value)


OVERLAY_MENU, PATIENT_MENU = "what is drawn over the image", "patient, worst first"

# --- JupyterLab -----------------------------------------------------------------------------------


def test_lab_runs_all_cells_and_shows_the_right_slice(lab, environment):
    page, problems = lab
    errors = page.locator(
        ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']"
    ).all_inner_texts()
    assert not errors and not problems
    data = load_data(PHANTOM_FOLDER, 64)
    patient, channel, start = shown(page)
    assert channel == FLAIR and start == data.truth(patient).sum(axis=(1, 2)).argmax()
    last = len(data.volume(patient)) - 1

    page.locator(".slices").focus()
    for key, number in (
        ("ArrowRight", start + 1),
        ("ArrowLeft", start),
        ("End", last),
        ("ArrowUp", last),
        ("Home", 0),
        ("ArrowDown", 0),
        ("PageUp", 5),
    ):
        page.keyboard.press(key)
        assert shown(page) == (patient, FLAIR, number), key
        assert (picture(page) == expected(data, shown(page), None)).all(), key
        assert f"{number + 1} of {last + 1}" in page.locator(".slices output").inner_text()
    assert not problems


def test_lab_drags_the_slider(lab):
    page, problems = lab
    box = page.locator(".slices input.slice").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2)
    page.mouse.down()
    seen = set()
    for step in range(1, 11):
        page.mouse.move(box["x"] + box["width"] * step / 10 - 5, box["y"] + box["height"] / 2)
        seen.add(shown(page)[2])
    page.mouse.up()
    assert len(seen) > 5 and not problems


def test_lab_menus_and_toggles(lab, environment):
    page, problems = lab
    data = load_data(PHANTOM_FOLDER, 64)
    names = page.locator(f"select[aria-label='{PATIENT_MENU}'] option")
    assert all("DSC" in text for text in names.all_inner_texts())
    scores = [float(text.split()[-1]) for text in names.all_inner_texts()]
    assert scores == sorted(scores)

    choose(page, PATIENT_MENU, names.nth(3).get_attribute("value"))
    patient = names.nth(3).get_attribute("value")
    page.wait_for_function(
        "(name) => document.querySelector('.slices').dataset.shown.startsWith(name)", arg=patient
    )
    mask = predicted_mask(environment, data, patient)
    page.get_by_role("button", name="worst slice").click()
    wrong = (mask != data.truth(patient)).sum(axis=(1, 2))
    assert shown(page) == (patient, FLAIR, wrong.argmax())

    for overlay in ("fill", "error", "both", "off", "contour"):
        choose(page, OVERLAY_MENU, overlay)
        assert (picture(page) == expected(data, shown(page), mask, overlay)).all(), overlay
        lines = page.evaluate("""() => new Uint32Array(
          document.querySelector('.slices canvas.lines').getContext('2d')
          .getImageData(0, 0, 5000, 5000).data.buffer).some((pixel) => pixel)""")
        assert lines == (overlay in ("contour", "both"))
        page.locator(".slices").screenshot(path=SHOTS / f"lab_{overlay}.png")

    choose(page, OVERLAY_MENU, "error")
    page.locator("input[aria-label=opacity]").fill("1")
    assert (picture(page) == expected(data, shown(page), mask, "error", 1)).all()
    choose(page, OVERLAY_MENU, "contour")
    for channel in (0, 2, FLAIR):
        page.get_by_role("button", name=CHANNELS[channel]).click()
        page.wait_for_function(
            "(c) => document.querySelector('.slices').dataset.shown.split('/')[1] === c",
            arg=str(channel),
        )
        assert (picture(page) == expected(data, shown(page), None)).all()
    before = picture(page)
    page.locator("input[aria-label=window]").fill("60")
    assert (picture(page) != before).any()
    page.get_by_role("button", name="reset").click()
    assert (picture(page) == before).all()

    page.get_by_role("button", name="largest lesion").click()
    number = shown(page)[2]
    page.get_by_role("button", name="play").click()
    page.wait_for_function(
        "(n) => !document.querySelector('.slices').dataset.shown.endsWith('/' + n)", arg=number
    )
    page.get_by_role("button", name="play").click()
    assert not problems


def test_lab_in_the_dark(lab):
    page, _ = lab
    page.evaluate(
        "() => window.jupyterapp.commands.execute("
        "'apputils:change-theme', { theme: 'JupyterLab Dark' })"
    )
    page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    page.wait_for_timeout(500)
    page.locator(".slices").screenshot(path=SHOTS / "lab_dark.png")
    colours = page.evaluate("""() => [
      ...document.querySelectorAll('.slices select, .slices .key, .slices b')].map(
      (node) => getComputedStyle(node).color)""")
    assert all(sum(map(float, re.findall(r"[\d.]+", colour)[:3])) > 3 * 150 for colour in colours)


@pytest.mark.long
def test_lab_is_faster_than_interact(lab, chromium, server, capsys):
    page, _ = lab
    ours = median_wait(page, SHOWN, page.locator(".slices"))
    context = chromium.new_context(viewport={"width": 1200, "height": 1000})
    by_hand, _ = run_all(context, server, "interact.ipynb")
    by_hand.locator(".jp-OutputArea img").first.wait_for(timeout=60_000)
    theirs = median_wait(by_hand, FIGURE, by_hand.locator(".noUi-handle"))
    context.close()
    with capsys.disabled():
        print(
            f"\nkey press to new picture in JupyterLab, median of {PRESSES}: "
            f"slice browser {ours:.0f} ms, interact + matplotlib {theirs:.0f} ms"
        )
    assert ours < theirs


@pytest.mark.slow
@pytest.mark.parametrize("kind", LARGE_KINDS)
def test_lab_opens_a_large_patient(kind, lab, environment, chromium, server, capsys):
    for seed, name in enumerate(NAMES[:3]):
        write_patient(environment / "lab" / f"large_{kind}", name, *LARGE_KINDS[kind](seed))
    context = chromium.new_context(viewport={"width": 1200, "height": 1200})
    page, problems = run_all(context, server, f"large_{kind}.ipynb")
    page.locator(".slices[data-loaded]").wait_for(timeout=60_000)
    first = shown(page)[0]
    waits = [page.evaluate(OPENING, name) for name in NAMES[:3] if name != first]
    again = page.evaluate(OPENING, first)
    context.close()
    with capsys.disabled():
        print(
            f"\nopening 88 slices of 256x256 ({kind}) with truth, two predictions in JupyterLab, "
            f"ms to the picture, to all slices: "
            f"{' and '.join(f'{one:.0f}, {all_:.0f}' for one, all_ in waits)}; one seen before "
            f"{again[0]:.0f}, {again[1]:.0f}"
        )
    assert not problems


@pytest.mark.slow
def test_lab_draws_a_training_in_place(lab, chromium, server, capsys):
    context = chromium.new_context(viewport={"width": 1200, "height": 1400})
    page, problems = run_all(context, server, "live.ipynb")
    page.evaluate(FLICKER)
    page.get_by_text("finished", exact=True).wait_for(timeout=120_000)
    page.wait_for_timeout(500)
    seen = page.evaluate("() => window.frames_seen")
    page.screenshot(path=SHOTS / "live.png")
    assert page.locator(".jp-RenderedImage img").count() == 1
    context.close()
    with capsys.disabled():
        print(
            f"\nlive view: {seen['changes']} pictures, {seen['without']} frames of the screen "
            f"without one, heights {seen['heights']}"
        )
    assert seen["changes"] > 2 and len(seen["heights"]) == 1 and not problems


# --- a slow kernel --------------------------------------------------------------------------------


def test_what_is_clicked_while_the_kernel_computes_mixes_no_patients(tmp_path, offline):
    page, _ = offline
    data = load_data(write_phantom(tmp_path / "data", patients=2, size=64), 64)
    first, second = data.patients
    browser, sent = browse(prediction(data, 1, [first, second])), []
    browser.send = lambda content, buffers=(): sent.append((content, buffers))

    def answer(question):
        browser._answer(None, question, [])
        content, buffers = sent.pop()
        return [content, [base64.b64encode(part).decode() for part in buffers]]

    page.expose_function("answer", answer)
    patients = [[first, first], [second, second], ["nobody", "nobody"]]
    page.evaluate(SLOW_KERNEL, [(ROOT / "lib/viewer/browser.js").read_text(), patients])

    def wait_for(name, channel):
        place = f"() => document.querySelector('.slices').dataset.loaded === '{name}/{channel}'"
        page.wait_for_function(place, timeout=20_000)

    wait_for(first, FLAIR)
    page.evaluate(CHOOSING, second)
    assert page.locator(".slices").get_attribute("aria-busy") == "true"
    wait_for(second, 0)
    assert page.locator(".slices").get_attribute("aria-busy") == "false"
    page.locator(".slices").focus()
    page.keyboard.press("Home")
    choose(page, OVERLAY_MENU, "off")
    for number in range(len(data.volume(second))):
        assert shown(page) == (second, 0, number)
        assert (picture(page) == expected(data, shown(page), None, "off")).all()
        page.keyboard.press("ArrowRight")
    page.evaluate(CHOOSING, "nobody")
    page.wait_for_function("() => document.querySelector('.note').textContent.includes('nobody')")
    assert page.locator(".slices select").first.input_value() == second
    assert page.locator(".slices").get_attribute("aria-busy") == "false"


# --- the exported file ----------------------------------------------------------------------------


@pytest.fixture
def offline(chromium):
    """A page without a network, and what goes wrong on it."""
    context = chromium.new_context(viewport={"width": 1200, "height": 800}, offline=True)
    page, problems = watched(context)
    yield page, problems
    context.close()


@pytest.mark.parametrize("case", EDGE_CASES)
def test_file_shows_what_is_odd(case, tmp_path, offline):
    page, problems = offline
    file = browse(edge_case(tmp_path / "data", case)).to_html(tmp_path / "page.html")
    page.goto(file.as_uri())
    page.locator(".slices[data-shown]").wait_for(timeout=20_000)
    page.locator(".slices").focus()
    page.keyboard.press("Home")
    data = load_data(tmp_path / "data", 32)
    patient, _, number = shown(page)
    image = data.volume(patient)[0, ..., FLAIR]
    assert number == 0
    table = colour_table("off", 0, (0, brightest(data.volume(patient)[..., FLAIR])))
    assert (picture(page) == table[0][image]).all()
    assert page.locator("canvas.image").count() == (4 if case == "four runs" else 1)
    words = page.locator(".slices").inner_text()
    for expected_words in {
        "one slice": ("1 of 1",),
        "no tumour": ("no tumour here, none predicted",),
        "no prediction": ("no prediction",),
        "no truth": ("no ground truth to compare with", "nothing predicted"),
        "missing sequence": ("pre-contrast *",),
        "four runs": ("run 0", "run 3"),
        "long name": ("DSC",),
    }[case]:
        assert expected_words in words
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=SHOTS / f"file_{case.replace(' ', '_')}.png")
    assert not problems


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_file_is_fast_without_a_network(theme, tmp_path, offline, capsys):
    page, problems = offline
    data = load_data(PHANTOM_FOLDER, 64)
    some = list(data.patients)[:3]
    runs = {"moved by 1": prediction(data, 1, some), "moved by 3": prediction(data, 3, some)}
    file = browse(runs).to_html(tmp_path / "page.html")
    page.emulate_media(color_scheme=theme)
    page.goto(file.as_uri())
    page.locator(".slices[data-shown]").wait_for(timeout=20_000)
    patient = page.locator("select").first.input_value()
    choose(page, OVERLAY_MENU, "error")
    for panel, run in enumerate(runs.values()):
        assert (
            picture(page, panel) == expected(data, shown(page), run.mask(patient), "error")
        ).all()
    choose(page, OVERLAY_MENU, "contour")
    page.screenshot(path=SHOTS / f"file_{theme}.png")
    before, number = picture(page), shown(page)[2]
    canvas = page.locator("canvas.lines").first.bounding_box()
    page.mouse.move(canvas["x"] + 100, canvas["y"] + 100)
    page.mouse.wheel(0, 100)
    assert shown(page)[2] == number  # it was not clicked yet: the page scrolls
    page.mouse.down()
    page.mouse.move(canvas["x"] + 160, canvas["y"] + 140)
    page.mouse.up()
    assert (picture(page) != before).any()
    page.mouse.dblclick(canvas["x"] + 100, canvas["y"] + 100)
    assert (picture(page) == before).all()
    page.mouse.wheel(0, 100)
    page.wait_for_function(
        "(n) => document.querySelector('.slices').dataset.shown.endsWith('/' + n)", arg=number + 1
    )
    wait = median_wait(page, SHOWN, page.locator(".slices"))
    with capsys.disabled():
        print(
            f"\nkey press to new picture in the exported file ({theme}), two runs, "
            f"median of {PRESSES}: {wait:.0f} ms"
        )
    assert not problems

"""Write the slice browser as one HTML file, which needs neither kernel nor network."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from string import Template
from typing import Any

from lib.plot.pixels import grey_webp
from lib.utils import KitError, write_atomic
from lib.viewer.gallery import Gallery

SCRIPT, STYLE = (
    (Path(__file__).with_name(f"browser.{kind}")).read_text(encoding="utf-8")
    for kind in ("js", "css")
)

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
body { background: Canvas; margin: 12px; }
$style
</style>
<main id="slices"></main>
$patients
<script type="module">
$script
// what a notebook asks its kernel for lies in this page; a patient is read when it is chosen
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
let opened = {};  // the patient on the screen: an element is parsed once, not for every slice
const menuOfPage = read("patients");
const names = menuOfPage.map(([name]) => name);
new Viewer(document.getElementById("slices"), {
  patients: menuOfPage,
  open: async (name, channel) => {
    const { header, masks, frames } = read("patient-" + names.indexOf(name));
    const own = (slices, i) => slices.length ? slices : frames[header.channels[i].same_as];
    opened = { name, frames: frames.map(own) };
    const first = bytes(opened.frames[channel][header.largest]);
    return { header, first, masks: masks.map(bytes) };
  },
  slices: async (name, channel, numbers) =>
    numbers.map((number) => bytes(opened.frames[channel][number])),
});
</script>
</html>
""")

_MARK = b'<main id="slices"></main>'  # in every page, of earlier versions too


def write_page(gallery: Gallery, path: str | Path, patients: list[str] | None = None) -> Path:
    """Write some patients of ``gallery``, all by default, to one file; print its size.

    A slice is stored once, however many predictions are drawn over it. Masks are stored as run
    lengths.

    Raises:
        KitError: a patient that the gallery does not hold, or another file has this name.
    """
    path, names = Path(path), list(gallery.labels) if patients is None else list(patients)
    unknown = [name for name in names if name not in gallery.labels]
    if unknown or not names:
        wanted = f"no patient {unknown[0]}" if unknown else "no patient"
        some = ", ".join(list(gallery.labels)[:3])
        raise KitError(f"{path}: {wanted} to show; there are {some} ...")
    menu = [[name, gallery.labels[name]] for name in names]
    require_own_page(path)
    parts = [_json_element("patients", menu)]
    parts += [
        _json_element(f"patient-{i}", _patient(gallery, name)) for i, name in enumerate(names)
    ]
    title = names[0] if len(names) == 1 else f"{len(names)} patients"
    write_atomic(
        path,
        _PAGE.substitute(
            title=html.escape(title), style=STYLE, script=SCRIPT, patients="\n".join(parts)
        ),
    )
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {title}")
    return path


def _patient(gallery: Gallery, name: str) -> dict[str, Any]:
    header = gallery.header(name)
    frames = [
        []
        if channel["same_as"] is not None
        else [_text(grey_webp(plane)) for plane in gallery.volume(name)[..., i]]
        for i, channel in enumerate(header["channels"])
    ]
    return {
        "header": header,
        "masks": [_text(mask) for mask in gallery.packed_masks(name)],
        "frames": frames,
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def require_own_page(path: Path) -> None:
    """Raise KitError if the path is taken by anything but a page of this module."""
    if path.is_dir() or (path.exists() and _MARK not in path.read_bytes()):
        raise KitError(f"{path}: is there and no slice browser; choose another name")


def _json_element(name: str, value: Any) -> str:
    # "<" spelt out: no name of a patient or a run can end the element
    content = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{content}</script>'

// The slice browser. One patient's images and masks are in memory here, so a step to another slice asks nobody.
//
// It gets what it shows from a source:
//   patients: [[name, label], ...]     the menu, worst first
//   header(name): Promise<object>      see Gallery.header
//   masks(name): Promise<bytes[]>      truth and predictions as run lengths, empty where there is none
//   frames(name, channel): Promise<bytes[]>   a PNG or WebP per slice
// In a notebook the source asks the kernel (render, at the end); in an exported file it reads the page.

const COLOURS = {  // the same as in lib/frames.py
  truth: "#F0E442", prediction: "#D55E00", agreed: "#E69F00", hit: "#009E73", alarm: "#D55E00", missed: "#56B4E9",
};
const OVERLAYS = { contour: "outlines", fill: "areas", both: "outlines and areas", error: "errors", off: "nothing" };
const FILLS = { fill: ["truth", "prediction", "agreed"], both: ["truth", "prediction", "agreed"],
                error: ["missed", "alarm", "hit"] };
const LEGEND = { hit: "found (TP)", missed: "missed (FN)", alarm: "false alarm (FP)", agreed: "both", truth: "truth",
                 prediction: "prediction" };
const FLAIR = 1;
const FRAMES_PER_SECOND = 8;
const HINT = "keys: arrows, PageUp and PageDown, Home, End, space to play; drag the picture for brightness and contrast";
const KEYS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5,
               Home: -Infinity, End: Infinity };

// --- pixels ---------------------------------------------------------------------------------------------------------

// The colour of a pixel at [kind * 256 + intensity], as the four bytes of a canvas pixel in one number.
function colourTable(overlay, opacity, [low, high]) {
  const table = new Uint32Array(4 * 256);
  for (let kind = 0; kind < 4; kind++) {
    const name = kind && FILLS[overlay] ? FILLS[overlay][kind - 1] : null;
    for (let value = 0; value < 256; value++) {
      const scaled = ((value - low) * 255) / Math.max(high - low, 1);
      const grey = Math.floor(Math.min(Math.max(scaled, 0), 255) + 0.5);
      const [r, g, b] = [1, 3, 5].map((at) => {
        if (!name) return grey;
        const colour = parseInt(COLOURS[name].slice(at, at + 2), 16);
        return Math.floor(grey * (1 - opacity) + colour * opacity + 0.5);
      });
      table[kind * 256 + value] = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    }
  }
  return table;
}

// Run lengths -> a byte per voxel, `bit` inside and 0 outside.
function unpack(bytes, length, bit) {
  const voxels = new Uint8Array(length);
  const places = new Uint32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  for (let i = 0; i < places.length; i += 2) voxels.fill(bit, places[i], places[i + 1] ?? length);
  return voxels;
}

// PNG or WebP -> intensities. The browser's decoder turns grey into RGBA; red is the intensity.
async function decode(bytes, width, height) {
  const bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const intensities = new Uint8Array(width * height);
  for (let i = 0; i < intensities.length; i++) intensities[i] = rgba[4 * i];
  return intensities;
}

// The line between the pixels that are in `mask` and those that are not, in pixels of the image.
function outline(mask, start, width, height) {
  const path = new Path2D();
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[start + y * width + x] > 0;
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      const here = at(x, y);
      if (here !== at(x, y - 1)) { path.moveTo(x, y); path.lineTo(x + 1, y); }
      if (here !== at(x - 1, y)) { path.moveTo(x, y); path.lineTo(x, y + 1); }
    }
  }
  return path;
}

// --- words ----------------------------------------------------------------------------------------------------------

function plural(count) { return `${count} pixel${count === 1 ? "" : "s"}`; }

function sliceWords([tp, fp, fn], truth) {
  if (!truth) return fp ? `${plural(fp)} predicted` : "nothing predicted";
  if (!(tp + fn)) return fp ? `no tumour here, ${plural(fp)} false alarm` : "no tumour here, none predicted";
  if (!(tp + fp)) return `DSC 0.00: the tumour is missed, ${plural(fn)}`;
  const score = `DSC ${((2 * tp) / (2 * tp + fp + fn)).toFixed(2)}`;
  return fp + fn ? `${score}: ${plural(fn)} missed, ${fp} false alarm` : `${score}: every pixel agrees`;
}

function volumeWords(run, truth) {
  if (!run.slices.length) return "this patient was not predicted";
  return truth ? `whole volume DSC ${run.dsc.toFixed(3)}` : "no truth to compare with";
}

// --- elements -------------------------------------------------------------------------------------------------------

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function menu(label, options, onchange) {
  const select = element("select", { "aria-label": label, title: label, onchange: () => onchange(select.value) },
                         ...options.map(([value, text]) => element("option", { value }, text)));
  return select;
}

function range(label, min, max, step, oninput) {
  const input = element("input", { type: "range", min, max, step, "aria-label": label,
                                   oninput: () => oninput(Number(input.value)) });
  return { input, node: element("label", { title: label }, element("span", {}, label), input) };
}

// --- the browser ----------------------------------------------------------------------------------------------------

export function mount(host, source) {
  const root = element("div", { class: "slices", tabindex: 0, "data-lm-suppress-shortcuts": "true",
                                "aria-label": "slice browser: arrow keys change the slice, Home and End jump" });
  const state = { slice: 0, channel: FLAIR, overlay: "contour", opacity: 0.4, windows: [], header: null };
  let panels = [], grey = {}, table = null, timer = null, asked = 0;

  const patients = menu("patient, worst first", source.patients, open);
  const sequences = element("span", { class: "buttons", role: "group", "aria-label": "sequence" });
  const overlays = menu("what is drawn over the image", Object.entries(OVERLAYS), (value) => {
    state.overlay = value;
    recolour();
  });
  const opacity = range("opacity", 0, 1, 0.05, (value) => { state.opacity = value; recolour(); });
  const level = range("level", 0, 255, 1, (value) => setWindow(value, windowNow()[1] - windowNow()[0]));
  const width = range("window", 1, 255, 1, (value) => setWindow((windowNow()[0] + windowNow()[1]) / 2, value));
  const reset = element("button", { onclick: resetWindow, title: "brightness and contrast as at first" }, "reset");
  const play = element("button", { class: "play", onclick: togglePlay, "aria-label": "play" }, "▶");
  const slider = range("slice", 0, 0, 1, show);
  const readout = element("output", { class: "readout" });
  const largest = element("button", { onclick: () => show(state.header.largest) }, "largest lesion");
  const worst = element("button", { onclick: () => show(state.header.worst),
                                    title: "the slice with the most wrong pixels" }, "worst slice");
  const legend = element("span", { class: "legend" });
  const note = element("div", { class: "note", role: "status" }, HINT);
  const grid = element("div", { class: "panels" });
  opacity.input.value = state.opacity;
  slider.input.classList.add("slice");
  root.append(
    element("div", { class: "row" }, patients, sequences, element("label", {}, "show ", overlays)),
    element("div", { class: "row" }, play, slider.node, readout, largest, worst),
    grid, element("div", { class: "row" }, legend),
    element("div", { class: "row" }, opacity.node, level.node, width.node, reset), note);
  host.append(root);

  // --- choosing

  async function open(patient) {
    const ticket = ++asked;
    stop();
    note.textContent = HINT;
    try {
      const [header, masks, frames] = await Promise.all([source.header(patient), source.masks(patient),
                                                         source.frames(patient, state.channel)]);
      if (ticket !== asked) return;  // another patient was chosen meanwhile
      patients.value = patient;
      grey = {};
      keep(header, masks);
      await useFrames(state.channel, frames, ticket);
    } catch (error) {
      if (ticket === asked) note.textContent = `cannot be shown: ${error.message}`;
    }
  }

  function keep(header, masks) {
    state.header = header;
    state.windows = header.channels.map((channel) => channel.window);
    state.slice = header.largest;
    const voxels = header.shape.reduce((a, b) => a * b);
    const [truth, ...runs] = masks.map((bytes, i) => bytes.byteLength ? unpack(bytes, voxels, i ? 2 : 1) : null);
    const shown = runs.length ? header.runs.map((run, i) => [run, runs[i]]) : [[null, null]];
    panels = shown.map(([run, mask]) => makePanel(run, truth, mask));
    grid.replaceChildren(...panels.map((panel) => panel.node));
    grid.style.setProperty("--panels", panels.length);
    panels.forEach((panel) => watcher.observe(panel.lines));
    slider.input.max = header.shape[0] - 1;
    slider.input.disabled = play.disabled = header.shape[0] < 2;
    worst.disabled = header.worst === null;
    largest.disabled = !header.tumour;
    overlays.querySelector("[value=error]").disabled = !header.truth || !runs.length;
    if (overlays.selectedOptions[0].disabled) overlays.value = state.overlay = "contour";
    sequences.replaceChildren(...header.channels.map((channel, i) => element("button", {
      onclick: () => choose(i), disabled: channel.empty,
      title: channel.empty ? "this sequence is missing" : channel.same_as === null ? channel.name
        : `missing: the files hold ${header.channels[channel.same_as].name} in its place` },
      channel.name + (channel.same_as === null ? "" : " *"))));
  }

  // Several slices are decoded while the first is looked at; a step then finds its pixels ready.
  async function useFrames(channel, frames, ticket) {
    const [count, height, columns] = state.header.shape;
    grey[channel] = new Array(count);
    const turn = [state.slice, ...Array(count).keys()];
    for (const slice of turn) {
      if (ticket !== asked) return;
      grey[channel][slice] ??= await decode(frames[slice], columns, height);
      if (slice === state.slice && channel === state.channel) recolourOnce(channel, slice);
    }
  }

  function recolourOnce(channel, slice) {
    if (root.dataset.shown !== `${state.header.patient}/${channel}/${slice}`) recolour();
  }

  async function choose(channel) {
    state.channel = channel;
    const ticket = asked;
    if (grey[channel]) return recolour();
    try {
      const frames = await source.frames(state.header.patient, channel);
      if (ticket === asked) await useFrames(channel, frames, ticket);
    } catch (error) {
      note.textContent = `cannot be shown: ${error.message}`;
    }
  }

  // --- brightness and contrast

  function windowNow() { return state.windows[state.channel]; }

  function setWindow(middle, size) {
    state.windows[state.channel] = [middle - size / 2, middle + size / 2];
    recolour();
  }

  function resetWindow() {
    state.windows = state.header.channels.map((channel) => channel.window);
    recolour();
  }

  // --- drawing

  function makePanel(run, truth, mask) {
    const [, height, columns] = state.header.shape;
    const image = element("canvas", { class: "image", width: columns, height });
    const lines = element("canvas", { class: "lines" });
    const words = element("div", { class: "words" });
    const title = run ? [element("b", {}, run.label), element("span", {}, volumeWords(run, state.header.truth))]
      : [element("b", {}, "no prediction")];
    const picture = element("div", { class: "picture", title: "drag: brightness and contrast; double click: reset" },
                            image, lines);
    drag(picture);
    const context = image.getContext("2d");
    const pixels = context.createImageData(columns, height);
    return { run, truth, mask, lines, words, context, pixels, colours: new Uint32Array(pixels.data.buffer),
             node: element("figure", {}, element("figcaption", {}, ...title), picture, words) };
  }

  function recolour() {
    if (!state.header) return;
    table = colourTable(state.overlay, state.opacity, windowNow());
    const [low, high] = windowNow();
    level.input.value = (low + high) / 2;
    width.input.value = high - low;
    opacity.input.disabled = !FILLS[state.overlay];
    [...sequences.children].forEach((button, i) => button.setAttribute("aria-pressed", i === state.channel));
    describe();
    draw();
  }

  function describe() {
    const { truth, runs } = state.header;
    const there = (name) => name === "truth" ? truth : name === "prediction" ? runs.length > 0 : truth && runs.length;
    const names = FILLS[state.overlay] ?? (state.overlay === "off" ? [] : ["truth", "prediction"]);
    legend.replaceChildren(...names.filter(there).map((name) => element("span", { class: "key" }, element("i", {
      class: state.overlay === "contour" ? "line" : "area", style: `background:${COLOURS[name]}` }), LEGEND[name])));
    if (!legend.childElementCount) legend.append(state.overlay === "off" ? "image only" : "no masks to show");
    const { same_as: other, name } = state.header.channels[state.channel];
    if (other !== null) legend.append(` ${name} is missing: the files hold ${state.header.channels[other].name} there`);
  }

  function draw() {
    const { shape: [count, height, columns], numbers, patient, truth } = state.header;
    const pixels = grey[state.channel]?.[state.slice];
    slider.input.value = state.slice;
    readout.textContent = `${state.slice + 1} of ${count} (file ${numbers[state.slice]})`;
    for (const panel of panels) {
      if (panel.run?.slices.length) panel.words.textContent = sliceWords(panel.run.slices[state.slice], truth);
    }
    if (!pixels) return;  // still being decoded: useFrames draws it
    const start = state.slice * height * columns;
    panels.forEach((panel) => { paint(panel, pixels, start); drawLines(panel, start); });
    root.dataset.shown = `${patient}/${state.channel}/${state.slice}`;
  }

  function paint({ truth, mask, colours, context, pixels }, intensities, start) {
    for (let i = 0; i < intensities.length; i++) {
      const kind = (truth ? truth[start + i] : 0) | (mask ? mask[start + i] : 0);
      colours[i] = table[(kind << 8) | intensities[i]];
    }
    context.putImageData(pixels, 0, 0);
  }

  // Lines are drawn at the resolution of the screen: sharp however much the image is enlarged.
  function drawLines({ truth, mask, lines }, start) {
    const [, height, columns] = state.header.shape;
    const scale = Math.max(1, (lines.clientWidth || 512) * (window.devicePixelRatio || 1) / columns);
    lines.width = Math.round(columns * scale);
    lines.height = Math.round(height * scale);
    if (state.overlay !== "contour" && state.overlay !== "both") return;
    const context = lines.getContext("2d");
    context.scale(scale, scale);
    context.lineCap = "square";
    // the truth is the wider line: where both run together it still shows on either side of the other
    for (const [voxels, name, thickness] of [[truth, "truth", 5], [mask, "prediction", 2]]) {
      if (!voxels) continue;
      context.strokeStyle = COLOURS[name];
      context.lineWidth = thickness * (window.devicePixelRatio || 1) / scale;
      context.stroke(outline(voxels, start, columns, height));
    }
  }

  function show(slice) {
    if (!state.header) return;
    state.slice = Math.min(Math.max(slice, 0), state.header.shape[0] - 1);
    draw();
  }

  // --- playing, keys, mouse

  function togglePlay() {
    if (timer) return stop();
    play.textContent = "⏸";
    timer = setInterval(() => root.isConnected ? show((state.slice + 1) % state.header.shape[0]) : stop(),
                        1000 / FRAMES_PER_SECOND);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶";
  }

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    event.stopPropagation();  // or JupyterLab would move to another cell
    const control = event.target;
    if (control.tagName === "SELECT" || (control.type === "range" && control !== slider.input)) return;
    if (event.key in KEYS) {
      event.preventDefault();
      show(state.slice + KEYS[event.key]);
    } else if (event.key === " " && control.tagName !== "BUTTON") {
      event.preventDefault();
      togglePlay();
    }
  });
  // the page scrolls as usual until the browser was clicked
  grid.addEventListener("wheel", (event) => {
    if (!root.contains(document.activeElement) || event.ctrlKey) return;
    event.preventDefault();
    show(state.slice + Math.sign(event.deltaY));
  }, { passive: false });

  function drag(picture) {
    let from = null;
    picture.addEventListener("pointerdown", (event) => {
      root.focus({ preventScroll: true });
      picture.setPointerCapture(event.pointerId);
      from = [event.clientX, event.clientY, ...windowNow()];
    });
    picture.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [x, y, low, high] = from;
      const size = Math.min(Math.max(high - low + (event.clientX - x) / 2, 1), 255);
      setWindow(Math.min(Math.max((low + high) / 2 + (event.clientY - y) / 2, 0), 255), size);
    });
    for (const name of ["pointerup", "pointercancel"]) picture.addEventListener(name, () => { from = null; });
    picture.addEventListener("dblclick", resetWindow);
  }

  const watcher = new ResizeObserver(() => { if (state.header && table) draw(); });
  open(source.patients[0][0]);
  return () => { stop(); asked += 1; watcher.disconnect(); root.remove(); };
}

// --- in a notebook: the kernel is asked -------------------------------------------------------------------------------

function kernelSource(model) {
  const waiting = new Map();
  const receive = (reply, buffers) => {
    const { resolve, reject } = waiting.get(reply.id) ?? {};
    if (!resolve) return;  // the answer to another view of this browser
    waiting.delete(reply.id);
    if (reply.error) reject(new Error(reply.error));
    else resolve(reply.header ?? buffers.map((part) => new Uint8Array(part.buffer, part.byteOffset, part.byteLength)));
  };
  model.on("msg:custom", receive);
  const ask = (what, patient, channel = null) => new Promise((resolve, reject) => {
    const id = `${Date.now()}-${Math.random()}`;
    waiting.set(id, { resolve, reject });
    model.send({ id, what, patient, channel });
  });
  return { patients: model.get("patients"), close: () => model.off("msg:custom", receive),
           header: (name) => ask("header", name), masks: (name) => ask("masks", name),
           frames: (name, channel) => ask("frames", name, channel) };
}

function render({ model, el }) {
  const source = kernelSource(model);
  const unmount = mount(el, source);
  return () => { unmount(); source.close(); };
}

export default { render };

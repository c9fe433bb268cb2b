// The slice browser. One patient's images and masks are in memory here, so a step to another slice asks nobody.
//
// It gets what it shows from a source:
//   patients: [[name, label], ...]     the menu, worst first
//   open(name, channel): Promise<{ header, first, masks }>   header: see Gallery.header; first: the slice to show first,
//                                      a PNG or WebP; masks: truth and predictions as run lengths, empty where there
//                                      is none
//   slices(name, channel, numbers): Promise<bytes[]>   a PNG or WebP of each
// In a notebook the source asks the kernel (render, at the end); in an exported file it reads the page.

const COLOURS = {  // the same as in lib/plot/pixels.py
  truth: "#F0E442", prediction: "#D55E00", agreed: "#E69F00", hit: "#009E73", alarm: "#D55E00", missed: "#56B4E9",
};
const OVERLAYS = { contour: "outlines", fill: "areas", both: "outlines and areas", error: "errors", off: "nothing" };
const FILLS = { fill: ["truth", "prediction", "agreed"], both: ["truth", "prediction", "agreed"],
                error: ["missed", "alarm", "hit"] };
const LEGEND = { hit: "found (TP)", missed: "missed (FN)", alarm: "false alarm (FP)", agreed: "both", truth: "ground truth",
                 prediction: "prediction" };
const FLAIR = 1;
const FRAMES_PER_SECOND = 8;
const BLOCK = 16;  // slices asked for at once: so few that the one on the screen need not wait long
const HINT = "keys: arrows, PageUp, PageDown, Home, End, space to play; drag the picture for brightness and contrast";
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

const easel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

// PNG or WebP -> intensities. The browser's decoder turns grey into RGBA; red is the intensity.
async function decode(bytes, width, height) {
  const bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" });
  if (easel.canvas.width !== width || easel.canvas.height !== height) Object.assign(easel.canvas, { width, height });
  easel.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = easel.getImageData(0, 0, width, height).data;
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
  const score = truth ? `whole volume DSC ${run.dsc.toFixed(3)}` : "no ground truth to compare with";
  return run.seen ? `${score} (trained on)` : score;
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

class Viewer {
  constructor(host, source) {
    this.source = source;
    this.header = null;  // of the patient on the screen; null until the first is there
    this.slice = 0;
    this.channel = FLAIR;
    this.overlay = "contour";
    this.opacity = 0.4;
    this.windows = [];  // [low, high] of each channel
    this.grey = {};  // of this patient, channel -> intensities of each slice, as far as they are decoded
    this.panels = [];
    this.table = null;
    this.timer = null;
    this.asked = 0;  // counts the patients chosen: an answer that comes too late is recognised
    this.watcher = new ResizeObserver(() => { if (this.table) this.draw(); });
    this.root = element("div", { class: "slices", tabindex: 0, "data-lm-suppress-shortcuts": "true",
                                 "aria-label": "slice browser: arrow keys change the slice, Home and End jump" });
    this.makeControls();
    this.arrange();
    this.listen();
    host.append(this.root);
    this.open(source.patients[0][0]);
  }

  close() {
    this.stop();
    this.asked += 1;
    this.grey = {};
    this.watcher.disconnect();
    this.root.remove();
  }

  // --- elements

  makeControls() {
    this.patients = menu("patient, worst first", this.source.patients, (name) => this.open(name));
    this.sequences = element("span", { class: "buttons", role: "group", "aria-label": "sequence" });
    this.overlays = menu("what is drawn over the image", Object.entries(OVERLAYS), (value) => {
      this.overlay = value;
      this.recolour();
    });
    this.opacities = range("opacity", 0, 1, 0.05, (value) => { this.opacity = value; this.recolour(); });
    this.level = range("level", 0, 255, 1, (value) => this.setWindow(value, this.window[1] - this.window[0]));
    this.width = range("window", 1, 255, 1, (value) => this.setWindow((this.window[0] + this.window[1]) / 2, value));
    this.reset = element("button", { onclick: () => this.resetWindow(), title: "brightness and contrast as at first" },
                         "reset");
    this.play = element("button", { class: "play", onclick: () => this.togglePlay(), "aria-label": "play" }, "▶");
    this.slider = range("slice", 0, 0, 1, (value) => this.show(value));
    this.readout = element("output", { class: "readout" });
    this.largest = element("button", { onclick: () => this.show(this.header.largest) }, "largest lesion");
    this.worst = element("button", { onclick: () => this.show(this.header.worst),
                                     title: "the slice with the most wrong pixels" }, "worst slice");
    this.legend = element("span", { class: "legend" });
    this.note = element("div", { class: "note", role: "status" }, HINT);
    this.grid = element("div", { class: "panels" });
    this.opacities.input.value = this.opacity;
    this.slider.input.classList.add("slice");
  }

  arrange() {
    const row = (...parts) => element("div", { class: "row" }, ...parts);
    this.root.append(
      row(this.patients, this.sequences, element("label", {}, "show ", this.overlays)),
      row(this.play, this.slider.node, this.readout, this.largest, this.worst),
      this.grid, row(this.legend), row(this.opacities.node, this.level.node, this.width.node, this.reset), this.note);
  }

  makePanel(run, truth, mask) {
    const [, height, columns] = this.header.shape;
    const image = element("canvas", { class: "image", width: columns, height });
    const lines = element("canvas", { class: "lines" });
    const words = element("div", { class: "words" });
    const title = run ? [element("b", {}, run.label), element("span", {}, volumeWords(run, this.header.truth))]
      : [element("b", {}, "no prediction")];
    const picture = element("div", { class: "picture", title: "drag: brightness and contrast; double click: reset" },
                            image, lines);
    this.listenToDrags(picture);
    const context = image.getContext("2d");
    const pixels = context.createImageData(columns, height);
    return { run, truth, mask, lines, words, context, pixels, colours: new Uint32Array(pixels.data.buffer),
             node: element("figure", {}, element("figcaption", {}, ...title), picture, words) };
  }

  makeSequences() {
    this.sequences.replaceChildren(...this.header.channels.map((channel, i) => {
      const standIn = channel.same_as === null ? null : this.header.channels[channel.same_as].name;
      const title = channel.empty ? "this sequence is missing"
        : standIn ? `missing: the files hold ${standIn} in its place` : channel.name;
      return element("button", { onclick: () => this.choose(i), disabled: channel.empty, title },
                     channel.name + (standIn ? " *" : ""));
    }));
  }

  // --- choosing

  async open(patient) {
    const ticket = ++this.asked;
    this.stop();
    this.note.textContent = HINT;
    this.wait(true);  // the picture is still that of the patient before
    try {
      const { channel } = this;
      const { header, first, masks } = await this.source.open(patient, channel);
      if (ticket !== this.asked) return;  // another patient was chosen meanwhile
      this.patients.value = patient;
      this.keep(header, masks);
      this.wait(false);
      await this.useSlices(header, this.grey, channel, [header.largest], [first]);
    } catch (error) {
      if (ticket !== this.asked) return;
      this.complain(error);
      if (!this.header) return;
      this.patients.value = this.header.patient;
      this.wait(false);
    }
    await this.choose(this.channel);
  }

  async choose(channel) {
    const { grey } = this;
    this.channel = channel;
    if (grey[channel]?.[this.slice]) this.recolour();
    try {
      await this.load(channel);
    } catch (error) {
      if (grey === this.grey) this.complain(error);
    }
  }

  wait(isWaiting) { this.root.setAttribute("aria-busy", isWaiting); }

  complain(error) { this.note.textContent = `cannot be shown: ${error.message}`; }

  keep(header, masks) {
    this.header = header;
    this.grey = {};
    this.windows = header.channels.map((channel) => channel.window);
    this.slice = header.largest;
    const voxels = header.shape.reduce((a, b) => a * b);
    const [truth, ...runs] = masks.map((bytes, i) => bytes.byteLength ? unpack(bytes, voxels, i ? 2 : 1) : null);
    const shown = runs.length ? header.runs.map((run, i) => [run, runs[i]]) : [[null, null]];
    this.watcher.disconnect();
    this.panels = shown.map(([run, mask]) => this.makePanel(run, truth, mask));
    this.grid.replaceChildren(...this.panels.map((panel) => panel.node));
    this.grid.style.setProperty("--panels", this.panels.length);
    this.panels.forEach((panel) => this.watcher.observe(panel.lines));
    this.makeSequences();
    this.slider.input.max = header.shape[0] - 1;
    this.slider.input.disabled = this.play.disabled = header.shape[0] < 2;
    this.worst.disabled = header.worst === null;
    this.largest.disabled = !header.tumour;
    this.overlays.querySelector("[value=error]").disabled = !header.truth || !runs.length;
    if (this.overlays.selectedOptions[0].disabled) this.overlays.value = this.overlay = "contour";
  }

  // All slices of a sequence, the nearest to the screen first: a step to one finds its pixels ready. While a block is
  // decoded here, the next is made there.
  async load(channel) {
    const { header, grey } = this;  // those of another patient may come meanwhile
    const { patient, shape: [count] } = header;
    grey[channel] ??= [];
    const missing = [...Array(count).keys()].filter((slice) => !grey[channel][slice]);
    const distance = (slice) => Math.abs(slice - this.slice);
    const ask = () => {
      const numbers = missing.sort((a, b) => distance(a) - distance(b)).splice(0, BLOCK);
      return { numbers, answer: numbers.length && this.source.slices(patient, channel, numbers) };
    };
    for (let block = ask(), next; block.numbers.length; block = next) {
      const frames = await block.answer;
      if (grey !== this.grey || channel !== this.channel) return;
      next = ask();
      await this.useSlices(header, grey, channel, block.numbers, frames);
    }
    this.root.dataset.loaded = `${patient}/${channel}`;
  }

  async useSlices({ shape: [, height, columns] }, grey, channel, numbers, frames) {
    const decoded = await Promise.all(frames.map((frame) => decode(frame, columns, height)));
    numbers.forEach((slice, i) => { (grey[channel] ??= [])[slice] = decoded[i]; });
    if (grey === this.grey && channel === this.channel && numbers.includes(this.slice)) this.recolour();
  }

  // --- brightness and contrast

  get window() { return this.windows[this.channel]; }

  setWindow(middle, size) {
    this.windows[this.channel] = [middle - size / 2, middle + size / 2];
    this.recolour();
  }

  resetWindow() {
    this.windows = this.header.channels.map((channel) => channel.window);
    this.recolour();
  }

  // --- drawing

  place() { return `${this.header.patient}/${this.channel}/${this.slice}`; }

  recolour() {
    if (!this.header) return;
    const [low, high] = this.window;
    this.table = colourTable(this.overlay, this.opacity, this.window);
    this.level.input.value = (low + high) / 2;
    this.width.input.value = high - low;
    this.opacities.input.disabled = !FILLS[this.overlay];
    [...this.sequences.children].forEach((button, i) => button.setAttribute("aria-pressed", i === this.channel));
    this.describe();
    this.draw();
  }

  describe() {
    const { truth, runs, channels } = this.header;
    const there = (name) => name === "truth" ? truth : name === "prediction" ? runs.length > 0 : truth && runs.length;
    const names = FILLS[this.overlay] ?? (this.overlay === "off" ? [] : ["truth", "prediction"]);
    const form = this.overlay === "contour" ? "line" : "area";
    this.legend.replaceChildren(...names.filter(there).map((name) => element("span", { class: "key" },
      element("i", { class: form, style: `background:${COLOURS[name]}` }), LEGEND[name])));
    if (!this.legend.childElementCount) this.legend.append(this.overlay === "off" ? "image only" : "no masks to show");
    const { same_as: other, name } = channels[this.channel];
    if (other !== null) this.legend.append(`${name} is missing: the files hold ${channels[other].name} there`);
  }

  draw() {
    const { shape: [count, height, columns], numbers, truth } = this.header;
    const pixels = this.grey[this.channel]?.[this.slice];
    this.slider.input.value = this.slice;
    this.readout.textContent = `${this.slice + 1} of ${count} (file ${numbers[this.slice]})`;
    for (const { run, words } of this.panels) {
      if (run?.slices.length) words.textContent = sliceWords(run.slices[this.slice], truth);
    }
    if (!pixels) return;  // still being decoded: useFrames draws it
    const start = this.slice * height * columns;
    this.panels.forEach((panel) => { this.paint(panel, pixels, start); this.drawLines(panel, start); });
    this.root.dataset.shown = this.place();
  }

  paint({ truth, mask, colours, context, pixels }, intensities, start) {
    const { table } = this;
    for (let i = 0; i < intensities.length; i++) {
      const kind = (truth ? truth[start + i] : 0) | (mask ? mask[start + i] : 0);
      colours[i] = table[(kind << 8) | intensities[i]];
    }
    context.putImageData(pixels, 0, 0);
  }

  // Lines are drawn at the resolution of the screen: sharp however much the image is enlarged.
  drawLines({ truth, mask, lines }, start) {
    const [, height, columns] = this.header.shape;
    const density = window.devicePixelRatio || 1;
    const scale = Math.max(1, (lines.clientWidth || 512) * density / columns);
    lines.width = Math.round(columns * scale);
    lines.height = Math.round(height * scale);
    if (this.overlay !== "contour" && this.overlay !== "both") return;
    const context = lines.getContext("2d");
    context.scale(scale, scale);
    context.lineCap = "square";
    // the truth is the wider line: where both run together it still shows on either side of the other
    for (const [voxels, name, thickness] of [[truth, "truth", 5], [mask, "prediction", 2]]) {
      if (!voxels) continue;
      context.strokeStyle = COLOURS[name];
      context.lineWidth = thickness * density / scale;
      context.stroke(outline(voxels, start, columns, height));
    }
  }

  show(slice) {
    if (!this.header) return;
    this.slice = Math.min(Math.max(slice, 0), this.header.shape[0] - 1);
    this.draw();
  }

  // --- playing, keys, mouse

  togglePlay() {
    if (this.timer) return this.stop();
    this.play.textContent = "⏸";
    this.timer = setInterval(() => this.root.isConnected ? this.show((this.slice + 1) % this.header.shape[0])
      : this.stop(), 1000 / FRAMES_PER_SECOND);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.textContent = "▶";
  }

  listen() {
    this.root.addEventListener("keydown", (event) => this.press(event));
    // the page scrolls as usual until the browser was clicked
    this.grid.addEventListener("wheel", (event) => {
      if (!this.root.contains(document.activeElement) || event.ctrlKey) return;
      event.preventDefault();
      this.show(this.slice + Math.sign(event.deltaY));
    }, { passive: false });
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    event.stopPropagation();  // or JupyterLab would move to another cell
    const control = event.target;
    if (control.tagName === "SELECT" || (control.type === "range" && control !== this.slider.input)) return;
    if (event.key in KEYS) {
      event.preventDefault();
      this.show(this.slice + KEYS[event.key]);
    } else if (event.key === " " && control.tagName !== "BUTTON" && !this.play.disabled) {
      event.preventDefault();
      this.togglePlay();
    }
  }

  listenToDrags(picture) {
    let from = null;
    picture.addEventListener("pointerdown", (event) => {
      this.root.focus({ preventScroll: true });
      picture.setPointerCapture(event.pointerId);
      from = [event.clientX, event.clientY, ...this.window];
    });
    picture.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [x, y, low, high] = from;
      const size = Math.min(Math.max(high - low + (event.clientX - x) / 2, 1), 255);
      this.setWindow(Math.min(Math.max((low + high) / 2 + (event.clientY - y) / 2, 0), 255), size);
    });
    for (const name of ["pointerup", "pointercancel"]) picture.addEventListener(name, () => { from = null; });
    picture.addEventListener("dblclick", () => this.resetWindow());
  }
}

// --- in a notebook: the kernel is asked -----------------------------------------------------------------------------

function kernelSource(model) {
  const waiting = new Map();
  const receive = (reply, buffers) => {
    const { resolve, reject } = waiting.get(reply.id) ?? {};
    if (!resolve) return;  // the answer to another view of this browser
    waiting.delete(reply.id);
    if (reply.error) reject(new Error(reply.error));
    else resolve([reply.header, buffers.map((part) => new Uint8Array(part.buffer, part.byteOffset, part.byteLength))]);
  };
  model.on("msg:custom", receive);
  const ask = (patient, channel, slices = null) => new Promise((resolve, reject) => {
    const id = `${Date.now()}-${Math.random()}`;
    waiting.set(id, { resolve, reject });
    model.send({ id, patient, channel, slices });
  });
  const open = async (patient, channel) => {
    const [header, [first, ...masks]] = await ask(patient, channel);
    return { header, first, masks };
  };
  const slices = async (...which) => (await ask(...which))[1];
  return { patients: model.get("patients"), close: () => model.off("msg:custom", receive), open, slices };
}

function render({ model, el }) {
  const source = kernelSource(model);
  const viewer = new Viewer(el, source);
  return () => { viewer.close(); source.close(); };
}

export default { render };

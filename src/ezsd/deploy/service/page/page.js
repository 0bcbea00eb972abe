// The page: images and names in, boxes drawn at once.

import { setUpCamera } from "./camera.js";
import { key, splitNames } from "./names.js";
import { above, asCoco, asJson, save } from "./results.js";
import { detect, Refused, useToken, vocabulary } from "./service.js";

const $ = (id) => document.getElementById(id);
const KINDS = ["image/jpeg", "image/png", "image/webp"];

let model = null; // {base, novel, names, thresholds, limits}
let calibrated = new Map(); // the minimum score by name
let minimum = null; // for all names, once the slider was moved
let names = []; // to find, in the order of the chips
let images = []; // {file, url, result, problem}
let shown = null; // the one of them in the viewer
let notice = ""; // a problem that belongs to no single image
let round = 0; // of requests; answers to earlier names are dropped

// Names

const known = () => [...model.base, ...model.novel];
const kindOf = (name) => (model.base.includes(name) ? "base" : "novel");
const unused = () => (model.names ?? []).filter((name) => !names.includes(name));
const changed = () => names.join("\n") !== known().join("\n");

function showNames() {
  $("names").replaceChildren(...names.map((name) => {
    const chip = element("li", { className: kindOf(name) }, element("span", {}, name));
    if (perName()) chip.append(element("small", { title: "Minimum score" }, calibratedOf(name).toFixed(2)));
    const button = element("button", { type: "button", onclick: () => removeName(name) }, "×");
    button.setAttribute("aria-label", `Remove ${name}`);
    chip.append(button);
    return chip;
  }));
  $("reset").hidden = !changed();
  if (!model.names) return;
  $("only").textContent = `This model was exported with ${model.names.length} names and finds no others.`;
  $("add-name").hidden = !unused().length;
  $("name").placeholder = unused().slice(0, 2).join(", ");
  $("known").replaceChildren(...unused().map((name) => element("option", { value: name })));
}

function setNames(next) {
  names = next;
  notice = "";
  showNames();
  detectAll();
}

function addNames(text) {
  const taken = new Set(names.map(key));
  const written = (name) => (model.names ?? known()).find((other) => key(other) === key(name));
  const asked = splitNames(text).filter((name) => !taken.has(key(name)) && taken.add(key(name)));
  const unknown = model.names ? asked.filter((name) => !written(name)) : [];
  const added = asked.filter((name) => !unknown.includes(name)).map((name) => written(name) ?? name);
  if (added.length) setNames([...names, ...added]);
  if ($("add-name").hidden) $("names").querySelector("li:last-child button").focus();
  if (unknown.length) {
    showProblem(`${unknown.join(", ")}: not among the names that this model was exported with. Export it with these names.`);
  }
}

function removeName(name) {
  const place = names.indexOf(name);
  setNames(names.filter((other) => other !== name));
  const buttons = $("names").querySelectorAll("button");
  (buttons[Math.min(place, buttons.length - 1)] ?? $("name")).focus(); // the keyboard stays where it was
}

// Scores

const calibratedOf = (name) => calibrated.get(name) ?? model.thresholds.other;
const least = (name) => minimum ?? calibratedOf(name);
const perName = () => minimum === null && calibrated.size > 0;
const lowest = () => Math.min(Number($("threshold").min), ...names.map(calibratedOf)); // the slider needs no new request

function showMinimum() {
  const scores = names.map(least).sort((a, b) => a - b);
  if (!scores.length) return;
  const [first, middle, last] = [scores[0], scores[scores.length >> 1], scores.at(-1)].map((score) => score.toFixed(2));
  const text = first === last ? first : `${first} to ${last}`;
  $("threshold-value").textContent = text;
  if (minimum === null) $("threshold").value = middle;
  $("threshold").setAttribute("aria-valuetext", perName() ? `calibrated, ${text}` : text);
  $("threshold-help").textContent = perName()
    ? "Calibrated for each name. Moving the slider sets one minimum for all names."
    : "One minimum for all names.";
  $("calibrated").hidden = minimum === null || !calibrated.size;
}

function setMinimum(value) {
  minimum = value;
  showNames();
  showState();
}

// Images

function addFiles(files) {
  const problems = [];
  for (const file of files) {
    const most = model?.limits.upload_mb ?? Infinity;
    if (!KINDS.includes(file.type)) problems.push(`${file.name}: not a JPEG, PNG or WebP image. Convert it.`);
    else if (file.size > most * 1e6) problems.push(`${file.name}: larger than ${most} MB. Make it smaller.`);
    else images.push({ file, url: URL.createObjectURL(file), result: null, problem: "" });
  }
  notice = problems.join("\n");
  const first = images.find((image) => !image.result && !image.problem);
  if (first) show(first);
  showState();
  detectAll(true);
}

async function detectAll(onlyNew = false) {
  if (!model) return;
  const own = onlyNew ? round : ++round;
  if (!onlyNew) images.forEach((image) => Object.assign(image, { result: null, problem: "" }));
  if (!names.length) {
    showState();
    return;
  }
  const waiting = images.filter((image) => !image.result && !image.problem && !(onlyNew && image.busy === own));
  waiting.sort((a, b) => (b === shown) - (a === shown)); // the visible one first
  waiting.forEach((image) => { image.busy = own; });
  showState();
  for (const image of waiting) {
    if (own !== round) return;
    const started = performance.now();
    try {
      const result = await detect(image.file, changed() ? names : null, lowest());
      if (own !== round) return;
      Object.assign(image, { result, seconds: (performance.now() - started) / 1000 });
    } catch (error) {
      if (own !== round) return;
      if (!(error instanceof Refused)) throw error;
      image.problem = error.message;
      if (error.status === 401) askToken();
    }
    showState();
  }
}

// What is seen

function show(image) {
  shown = image;
  $("image").src = image.url;
  $("image").alt = image.file.name;
  showState();
}

/** Bring everything that depends on results to the present state. */
function showState() {
  if (model) showMinimum();
  $("drop").hidden = images.length > 0;
  $("viewer").hidden = !shown;
  showStrip();
  const message = [notice, shown?.problem].filter(Boolean).join("\n");
  $("problem").textContent = message;
  $("problem").hidden = !message;
  const done = images.filter(({ result }) => result);
  $("save-json").disabled = $("save-coco").disabled = !done.length;
  if (!shown) return;
  const { result, problem, file, seconds } = shown;
  const found = result ? above(result, least) : [];
  const waits = !result && !problem && names.length > 0;
  $("canvas").classList.toggle("busy", waits);
  $("caption").textContent = result ? `${file.name}, ${result.width} × ${result.height} pixels` : file.name;
  showBoxes(found, result);
  showFound(found);
  $("nothing").textContent = found.length || waits ? "" : names.length ? (problem ? "" : "Nothing at this score.") : "Add a name to find.";
  $("nothing").hidden = !$("nothing").textContent;
  const count = `${found.length} ${found.length === 1 ? "object" : "objects"}`;
  $("status").textContent = waits ? "Detecting …" : result ? `${count}, ${seconds.toFixed(2)} s` : "";
}

function showBoxes(found, result) {
  const boxes = found.map(({ name, score, box: [x1, y1, x2, y2] }) => {
    const box = element("div", { className: `box ${kindOf(name)}` }, element("span", {}, `${name} ${score.toFixed(2)}`));
    const percent = (value, whole) => `${(100 * value) / whole}%`;
    Object.assign(box.style, {
      left: percent(x1, result.width), top: percent(y1, result.height),
      width: percent(x2 - x1, result.width), height: percent(y2 - y1, result.height),
    });
    box.classList.toggle("inside", y1 < 0.05 * result.height);
    box.classList.toggle("left", x1 > 0.75 * result.width);
    return box;
  });
  $("boxes").replaceChildren(...boxes.reverse()); // the best on top
}

function showFound(found) {
  $("found").replaceChildren(...found.map(({ name, score }, place) => {
    const row = element("button", { type: "button", className: kindOf(name) }, element("b", {}, name), element("i", {}, score.toFixed(2)));
    const point = (on) => () => {
      $("boxes").classList.toggle("pointed", on);
      $("boxes").children[found.length - 1 - place]?.classList.toggle("on", on);
    };
    Object.assign(row, { onmouseenter: point(true), onfocus: point(true), onmouseleave: point(false), onblur: point(false) });
    row.tabIndex = place ? -1 : 0; // one stop of the Tab key; the arrow keys go on
    return element("li", {}, row);
  }));
}

function moveInFound(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const rows = [...$("found").querySelectorAll("button")];
  rows[rows.indexOf(document.activeElement) + step]?.focus();
}

function showStrip() {
  if (images.length < 2) {
    $("strip").replaceChildren();
    return;
  }
  const buttons = $("strip").querySelectorAll("button");
  images.slice(buttons.length).forEach((image) => {
    const button = element("button", { type: "button", onclick: () => { notice = ""; show(image); } },
      element("img", { src: image.url, alt: image.file.name }), element("span"));
    $("strip").append(element("li", {}, button));
  });
  $("strip").querySelectorAll("button").forEach((button, place) => {
    const { result, problem } = images[place];
    button.setAttribute("aria-current", String(images[place] === shown));
    button.querySelector("span").textContent = result ? above(result, least).length : problem ? "!" : "…";
  });
}

function showProblem(text) {
  notice = text;
  showState();
}

function askToken() {
  $("token").hidden = false;
  $("token-text").focus();
}

function element(tag, values = {}, ...children) {
  const made = Object.assign(document.createElement(tag), values);
  made.append(...children);
  return made;
}

// Events

$("image").onload = ({ target }) => {
  $("canvas").style.setProperty("--ratio", target.naturalWidth / target.naturalHeight);
};
$("files").onchange = ({ target }) => {
  addFiles([...target.files]);
  target.value = ""; // the same file can be chosen again
};
$("add").onsubmit = (event) => {
  event.preventDefault();
  addNames($("name").value);
  $("name").value = "";
};
$("name").onkeydown = (event) => {
  if (event.key === "Backspace" && !$("name").value && names.length) setNames(names.slice(0, -1));
};
$("reset").onclick = () => {
  setNames(known());
  ($("add-name").hidden ? $("names").querySelector("button") : $("name")).focus();
};
$("found").onkeydown = moveInFound;
$("threshold").oninput = () => setMinimum(Number($("threshold").value));
$("calibrated").onclick = () => {
  setMinimum(null);
  $("threshold").focus();
};
$("token").onsubmit = (event) => {
  event.preventDefault();
  useToken($("token-text").value);
  $("token").hidden = true;
  start();
};
for (const [id, convert, name] of [["save-json", asJson, "detections.json"], ["save-coco", asCoco, "detections_coco.json"]]) {
  $(id).onclick = () => save(convert(images.filter(({ result }) => result), names, least, minimum), name);
}
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  addFiles([...event.dataTransfer.files]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) addFiles([...event.clipboardData.files]);
});
setUpCamera((file) => addFiles([file]), showProblem);

async function start() {
  try {
    model = await vocabulary();
  } catch (error) {
    showProblem(error.message);
    $("status").textContent = "";
    if (error.status === 401) askToken();
    return;
  }
  calibrated = new Map(Object.entries(model.thresholds.names));
  $("status").textContent = `${model.base.length} base and ${model.novel.length} novel names`;
  setNames(known());
}

start();

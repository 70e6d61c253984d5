"use strict";

// Unpacks the examples, and draws the ones that are looked at. Every text of theirs is put in as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const ITEM = 68; // pixels of an example in the list, as in the style
const FOLDED = 150; // tokens of a turn of context that is shown whole
const SIDES = ["to learn", "held out", "left out as too long"];
const CONTEXT = data.fates.indexOf("context"), LEARNT = data.fates.indexOf("learnt"), CUT = data.fates.indexOf("cut");
const REASONING = data.parts.indexOf("reasoning"), CALL = data.parts.indexOf("tool call");
const control = new Set(data.control);
const byId = (id) => document.getElementById(id);
const number = (n) => n.toLocaleString("en");
const share = (part, whole) => `${Math.round((100 * part) / Math.max(1, whole))}%`;

// ---- unpacking

function unpacked(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const numbers = new Uint32Array(bytes.length);
  let count = 0;
  for (let at = 0, value = 0, shift = 0; at < bytes.length; at++) {
    value += (bytes[at] & 0x7f) * 2 ** shift;
    shift += 7;
    if (bytes[at] < 0x80) {
      numbers[count++] = value;
      value = shift = 0;
    }
  }
  return numbers.slice(0, count);
}

const sequence = unpacked(data.sequence);
const examples = readExamples(unpacked(data.runs));
const packs = readPacks(data.packs ?? []);

function readExamples(packed) {
  const found = [];
  let at = 0, cell = 0;
  for (let which = 0; which < data.places.length; which++) {
    const example = { which, place: data.places[which], side: data.sides[which], row: data.rows[which], runs: [],
      tokens: 0, learnt: 0, cut: 0, reasoning: false, calls: false };
    for (let left = packed[at++]; left > 0; left--) {
      const run = readRun(cell, packed[at], packed[at + 1]);
      at += 2;
      cell = run.end;
      example.runs.push(run);
      example.tokens += run.tokens;
      if (run.fate === LEARNT) example.learnt += run.tokens;
      if (run.fate === CUT) example.cut += run.tokens;
      if (run.part === REASONING && run.fate === LEARNT) example.reasoning = true;
      if (run.part === CALL) example.calls = true;
    }
    example.seen = example.tokens - example.cut;
    found.push(example);
  }
  return found;
}

// The examples of a step lie in their packs one after the other; each pack says how many it has.
function readPacks(sizes) {
  let at = 0;
  return sizes.map((size, which) => {
    const pack = { which, examples: examples.slice(at, (at += size)), tokens: 0 };
    for (const example of pack.examples) {
      example.pack = pack;
      example.start = pack.tokens;
      pack.tokens += example.tokens;
    }
    return pack;
  });
}

function readRun(start, length, code) {
  const run = { start, end: start + length, begins: code % 2 === 1, tokens: 0 };
  code = Math.floor(code / 2);
  run.fate = code % data.fates.length;
  code = Math.floor(code / data.fates.length);
  run.part = code % data.parts.length;
  run.role = data.roles[Math.floor(code / data.parts.length)] || "text";
  for (let cell = start; cell < run.end; cell++) run.tokens += data.cells[sequence[cell]].length - 1;
  return run;
}

function textOf(example) {
  const { runs } = example;
  let text = "";
  for (let cell = runs[0].start; cell < runs[runs.length - 1].end; cell++) text += data.cells[sequence[cell]][0];
  return text;
}

function lowered(example) {
  return (example.lowered ??= textOf(example).toLowerCase());
}

function wordsOf(example) {
  const part = data.parts.indexOf("text");
  const run = example.runs.find((each) => each.role === "user" && each.part === part && each.end > each.start + 1)
    || example.runs[0];
  let text = "";
  for (let cell = run.start; cell < run.end && text.length < 120; cell++) text += data.cells[sequence[cell]][0];
  return text.trim().replace(/\s+/g, " ");
}

// ---- making elements

function made(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

// ---- what is chosen

const state = { order: [], at: 0, query: "", ids: false, spaces: false, whole: false, theme: "auto" };

const ORDERS = {
  order: (a, b) => a.which - b.which,
  longest: (a, b) => b.tokens - a.tokens,
  shortest: (a, b) => a.tokens - b.tokens,
  least: (a, b) => a.learnt / Math.max(1, a.seen) - b.learnt / Math.max(1, b.seen),
  most: (a, b) => b.learnt / Math.max(1, b.seen) - a.learnt / Math.max(1, a.seen),
  cut: (a, b) => b.cut - a.cut,
};

function choose() {
  const before = state.order[state.at];
  const query = state.query = byId("query").value.toLowerCase();
  const side = byId("side").value;
  state.order = examples.filter((example) =>
    (side === "" || example.side === Number(side))
    && (!byId("truncated").checked || example.cut > 0)
    && (!byId("reasoning").checked || example.reasoning)
    && (!byId("calls").checked || example.calls)
    && (!query || example.place.toLowerCase().includes(query) || lowered(example).includes(query)));
  state.order.sort(ORDERS[byId("sort").value]);
  byId("count").textContent = `${number(state.order.length)} of ${number(examples.length)}`;
  byId("all").style.height = `${state.order.length * ITEM}px`;
  go(Math.max(0, state.order.indexOf(before)));
}

function go(at) {
  state.at = Math.min(Math.max(0, at), Math.max(0, state.order.length - 1));
  const list = byId("list"), top = state.at * ITEM;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + ITEM > list.scrollTop + list.clientHeight) list.scrollTop = top + ITEM - list.clientHeight;
  drawList();
  drawExample();
}

// ---- the list: only what can be seen of it exists

const drawn = new Map();

function drawList() {
  const list = byId("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ITEM) - 4);
  const last = Math.min(state.order.length, Math.ceil((list.scrollTop + list.clientHeight) / ITEM) + 4);
  for (const [at, item] of drawn) {
    if (at < first || at >= last || item.example !== state.order[at]) {
      item.element.remove();
      drawn.delete(at);
    }
  }
  for (let at = first; at < last; at++) {
    if (!drawn.has(at)) {
      const element = itemOf(state.order[at], at);
      byId("all").append(element);
      drawn.set(at, { element, example: state.order[at] });
    }
    drawn.get(at).element.setAttribute("aria-selected", at === state.at);
  }
}

function itemOf(example, at) {
  const item = made("div", "item"), top = made("div", "top"), strip = made("div", "strip");
  item.setAttribute("role", "option");
  item.style.top = `${at * ITEM}px`;
  top.append(made("bdi", "place", example.place.split("/").pop()));
  if (example.side) top.append(made("span", "badge", ["", "held out", "left out"][example.side]));
  if (example.pack) top.append(made("span", "badge", `pack ${number(example.pack.which + 1)}`));
  if (example.cut) top.append(made("span", "badge cut", "cut off"));
  const learnt = example.side === 2 ? "" : ` · ${share(example.learnt, example.seen)}`;
  top.append(made("span", "size", number(example.tokens) + learnt));
  strip.style.width = `${Math.max(3, (100 * example.tokens) / longest)}%`;
  strip.style.background = stripOf(example);
  item.append(top, strip, made("div", "words", wordsOf(example)));
  item.title = `${example.place}: ${number(example.tokens)} tokens, ${number(example.learnt)} learnt`;
  item.addEventListener("click", () => go(at));
  return item;
}

function stripOf(example) {
  const stops = [];
  let at = 0;
  for (const run of example.runs) {
    const color = run.fate === CUT ? "var(--cut-line)" : run.fate === CONTEXT ? "var(--line)"
      : run.part === REASONING ? "var(--reasoning-line)" : run.part === CALL ? "var(--call-line)" : "var(--learnt-line)";
    const percent = (n) => `${((100 * n) / example.tokens).toFixed(2)}%`;
    stops.push(`${color} ${percent(at)} ${percent((at += run.tokens))}`);
  }
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

// ---- one example

function drawExample() {
  const example = state.order[state.at], turns = byId("turns"), title = byId("title");
  held = null;
  turns.replaceChildren();
  title.replaceChildren();
  byId("token").replaceChildren("Point at a token for its id; click to keep it.");
  if (!example) {
    turns.append(made("p", "none", "No example is like this."));
    return;
  }
  title.append(made("h2", "", example.place), made("p", "", figuresOf(example)));
  if (example.pack) title.append(...packOf(example));
  const hits = hitsIn(example);
  let token = 0, count = 0;
  for (let at = 0; at < example.runs.length;) {
    let end = at + 1;
    while (end < example.runs.length && !example.runs[end].begins) end++;
    const runs = example.runs.slice(at, end);
    const text = made("div", "text");
    for (const run of runs) {
      for (let cell = run.start; cell < run.end; cell++, count++) {
        token = addCell(text, sequence[cell], run, token, count, hits);
      }
    }
    const turn = made("section", "turn"), head = headOf(runs);
    if (isContext(runs) && !text.querySelector(".hit")) fold(head, text);
    turn.append(head, text);
    turns.append(turn);
    at = end;
  }
  byId("main").scrollTop = 0;
  turns.querySelector(".hit")?.scrollIntoView({ block: "center" });
}

function isContext(runs) {
  return runs.every((run) => run.fate === CONTEXT) && runs.reduce((all, run) => all + run.tokens, 0) > FOLDED;
}

// A long turn of which nothing is learnt shows its beginning, so that what is learnt comes into sight.
function fold(head, text) {
  if (state.whole) return;
  const more = made("button", "more", "show all");
  const unfold = () => {
    text.classList.remove("folded");
    more.remove();
  };
  text.classList.add("folded");
  more.addEventListener("click", unfold);
  text.addEventListener("click", unfold, { once: true });
  head.append(more);
}

function figuresOf(example) {
  const of = `example ${number(example.row)} ${SIDES[example.side]}; `;
  if (example.side === 2) return `${of}${number(example.tokens)} tokens, more than max_length ${number(data.max_length)}`;
  const cut = example.cut ? `${number(example.cut)} more were cut off` : "nothing was cut";
  const verb = example.side ? "scored" : "learnt";
  return `${of}${number(example.seen)} tokens, ${number(example.learnt)} ${verb}, `
    + `${share(example.learnt, example.seen)}; max_length ${number(data.max_length)}, ${cut}`;
}

// The pack that an example lies in: the mask of all of it, a border wherever an example begins, this one marked.
function packOf({ pack, start, which }) {
  const strip = made("div", "pack");
  for (const example of pack.examples) {
    const piece = made("button"), at = state.order.indexOf(example);
    piece.style.flexGrow = example.tokens;
    piece.style.backgroundImage = stripOf(example);
    piece.title = `${example.place}: tokens ${number(example.start + 1)} to ${number(example.start + example.tokens)}`;
    piece.setAttribute("aria-label", piece.title);
    piece.setAttribute("aria-current", example.which === which);
    piece.disabled = at < 0;
    piece.addEventListener("click", () => go(at));
    strip.append(piece);
  }
  const words = `pack ${number(pack.which + 1)} of ${number(packs.length)}: ${number(pack.examples.length)} examples end to end, `
    + `${number(pack.tokens)} tokens; this one begins at token ${number(start + 1)}, its positions at 0, and sees no other`;
  return [strip, made("p", "", words)];
}

function headOf(runs) {
  const sum = (fate) => runs.reduce((all, run) => all + (fate === undefined || run.fate === fate ? run.tokens : 0), 0);
  const head = made("h3", "", runs[0].role);
  const fate = sum(CUT) ? `, ${number(sum(CUT))} cut off` : sum(LEARNT) ? `, ${number(sum(LEARNT))} learnt` : "";
  head.append(made("span", "", `${number(sum())} tokens${fate}`));
  return head;
}

function addCell(text, cell, run, token, count, hits) {
  const [raw, ...ids] = data.cells[cell];
  const parity = count % 2 ? " odd" : "";
  const kind = control.has(cell) ? " control" : "";
  const hit = hits.has(count) ? " hit" : "";
  const name = `c ${data.fates[run.fate]} ${data.parts[run.part].replace(" ", "-")}${kind}${parity}${hit}`;
  const spaced = (state.spaces || state.ids ? raw.replaceAll(" ", "·") : raw).replaceAll("\t", state.ids ? "⇥" : "⇥\t");
  const shown = spaced.replaceAll("\n", state.ids ? "⏎" : "⏎\n").replace(/\n$/, "");
  const breaks = state.ids ? raw.includes("\n") : raw.endsWith("\n");
  const element = made("span", name, shown);
  element.dataset.token = token;
  element.dataset.cell = cell;
  if (state.ids) element.dataset.ids = ids.join("+");
  text.append(element);
  if (breaks) text.append("\n");
  return token + ids.length;
}

function hitsIn(example) {
  const hits = new Set();
  if (!state.query || !lowered(example).includes(state.query)) return hits;
  const ends = [], text = lowered(example);
  let end = 0;
  for (const run of example.runs) {
    for (let cell = run.start; cell < run.end; cell++) ends.push((end += data.cells[sequence[cell]][0].toLowerCase().length));
  }
  let cell = 0;
  for (let at = text.indexOf(state.query); at >= 0; at = text.indexOf(state.query, at + state.query.length)) {
    while (ends[cell] <= at) cell++;
    for (let each = cell; each < ends.length && (each === 0 ? 0 : ends[each - 1]) < at + state.query.length; each++) {
      hits.add(each);
    }
  }
  return hits;
}

// ---- one token

let held = null;

function tell(element) {
  const cell = Number(element.dataset.cell), first = Number(element.dataset.token);
  const [text, ...ids] = data.cells[cell];
  const where = ids.length > 1 ? `tokens ${first + 1}–${first + ids.length}, which make one character` : `token ${first + 1}`;
  const points = [...text].slice(0, 8).map((c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
  const kinds = element.className.split(" ");
  const fate = data.fates.find((each) => kinds.includes(each));
  const part = data.parts.find((each) => kinds.includes(each.replace(" ", "-")));
  byId("token").replaceChildren(
    made("b", "", JSON.stringify(text)), `   id ${ids.join(" + ")}   ${where}   ${fate}, ${part}`
    + `${control.has(cell) ? ", control token" : ""}   ${points.join(" ")}${text.length > 8 ? " …" : ""}`);
}

byId("turns").addEventListener("mouseover", (event) => {
  if (event.target.dataset.cell !== undefined && !held) tell(event.target);
});
byId("turns").addEventListener("click", (event) => {
  if (event.target.dataset.cell === undefined) return;
  const same = held === event.target;
  held?.classList.remove("held");
  held = same ? null : event.target;
  held?.classList.add("held");
  tell(event.target);
});

// ---- the head

const longest = examples.reduce((most, example) => Math.max(most, example.tokens), 1);

function drawHead() {
  const sum = (key) => examples.reduce((all, example) => all + example[key], 0);
  const sides = SIDES.map((words, side) => [examples.filter((example) => example.side === side).length, words]);
  const counts = sides.filter(([count]) => count).map(([count, words]) => `${number(count)} ${words}`).join(", ");
  const cut = examples.filter((example) => example.cut && example.side !== 2).length;
  byId("name").textContent = `${data.recipe}: what ${data.step ? `step ${number(data.step)} learns` : "is learnt"}`;
  if (data.step) byId("sort").options[0].textContent = "as in the step";
  byId("figures").textContent = `${counts}; ${number(sum("seen"))} tokens, ${number(sum("learnt"))} of them learnt or scored `
    + `(${share(sum("learnt"), sum("seen"))})${cut ? `; ${number(cut)} cut to max_length` : ""}; ${data.base}`
    + (data.of > examples.length ? `; ${number(data.of - examples.length)} more are not on this page` : "");
  drawLengths();
  for (const [name, words] of [["learnt", "learnt"], ["learnt reasoning", "learnt reasoning"],
    ["learnt tool-call", "learnt tool call"], ["text", "context"], ["reasoning", "reasoning"], ["tool-call", "tool call"],
    ["tool-result", "tool result"], ["control", "control token"], ["cut", "cut off"]]) {
    byId("legend").append(made("span", `c ${name}`, words));
  }
}

function drawLengths() {
  const bins = new Array(36).fill(0), width = longest / bins.length;
  for (const { tokens } of examples) bins[Math.min(bins.length - 1, Math.floor(tokens / width))]++;
  const most = Math.max(...bins);
  bins.forEach((count, bin) => {
    const bar = made("i", bin * width >= data.max_length ? "over" : "");
    bar.style.height = `${(100 * count) / most}%`;
    bar.title = `${number(Math.ceil(bin * width))} to ${number(Math.floor((bin + 1) * width))} tokens: ${number(count)}`;
    byId("lengths").append(bar);
  });
  byId("lengths").append(made("figcaption", "", `longest ${number(longest)}`));
}

// ---- theme, keys, and the address

const system = matchMedia("(prefers-color-scheme: dark)");

function paint() {
  const dark = state.theme === "dark" || (state.theme === "auto" && system.matches);
  document.documentElement.classList.toggle("dark", dark);
  byId("theme").textContent = state.theme === "auto" ? "auto" : state.theme;
}

function toggle(key) {
  state[key] = !state[key];
  byId(key).setAttribute("aria-pressed", state[key]);
  byId("turns").classList.toggle(key, state[key]);
  const { scrollTop } = byId("main");
  drawExample();
  byId("main").scrollTop = scrollTop;
}

function nextTheme() {
  const themes = ["auto", "light", "dark"];
  state.theme = themes[(themes.indexOf(state.theme) + 1) % themes.length];
  paint();
}

const KEYS = {
  j: ["next example", () => go(state.at + 1)],
  k: ["previous example", () => go(state.at - 1)],
  g: ["first example", () => go(0)],
  G: ["last example", () => go(state.order.length - 1)],
  "/": ["search", () => byId("query").focus()],
  i: ["ids", () => toggle("ids")],
  w: ["spaces", () => toggle("spaces")],
  e: ["long turns of context whole", () => toggle("whole")],
  t: ["theme", nextTheme],
  "?": ["these keys", () => byId("help").showModal()],
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.activeElement.blur();
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (["INPUT", "SELECT"].includes(event.target.tagName) && event.target.type !== "checkbox") return;
  const inList = event.target === byId("list");
  const key = inList && event.key === "ArrowDown" ? "j" : inList && event.key === "ArrowUp" ? "k" : event.key;
  if (!(key in KEYS)) return;
  event.preventDefault();
  KEYS[key][1]();
});

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  if (["auto", "light", "dark"].includes(words.get("theme"))) state.theme = words.get("theme");
  for (const key of ["query", "sort", "side"]) if (words.has(key)) byId(key).value = words.get(key);
  for (const key of ["ids", "spaces", "whole"]) if (words.has(key) && !state[key]) toggle(key);
  choose();
  if (words.has("at")) go(Number(words.get("at")) - 1);
}

function begin() {
  const table = made("table");
  for (const [key, [words]] of Object.entries(KEYS)) {
    const line = made("tr"), cell = made("td");
    cell.append(made("kbd", "", key));
    line.append(cell, made("td", "", words));
    table.append(line);
  }
  byId("help").append(table);
  byId("help").addEventListener("click", () => byId("help").close());
  for (const key of ["ids", "spaces", "whole"]) byId(key).addEventListener("click", () => toggle(key));
  byId("theme").addEventListener("click", nextTheme);
  byId("keys").addEventListener("click", () => byId("help").showModal());
  for (const id of ["sort", "side", "truncated", "reasoning", "calls"]) byId(id).addEventListener("change", choose);
  let waiting = 0;
  byId("query").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(choose, 120);
  });
  byId("list").addEventListener("scroll", drawList, { passive: true });
  addEventListener("resize", drawList);
  system.addEventListener("change", paint);
  drawHead();
  readAddress();
  paint();
}

begin();

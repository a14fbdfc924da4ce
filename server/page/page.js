// The page of ringlog-server: asks for the figures each second, and follows the log from where it is now.
// What the server sends goes into the page as text and attributes only, never as HTML.

const SAMPLES = 120;
const POLL_MILLIS = 1000;
const POLL_TIMEOUT_MILLIS = 5000;
const RETRY_MILLIS = [250, 500, 1000, 2000];
const SILENCE_MILLIS = 30_000;
const STALE_MILLIS = 2000;
const SILENT_NODE_MILLIS = 3000;
const FORGOTTEN_NODE_MILLIS = 600_000;
const TAIL_EVENTS = 200;
const MAX_DATA_CHARACTERS = 400;

const at = (id) => document.getElementById(id);

// What is shown ------------------------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

const count = (number) => (number < 10_000 ? whole.format(number) : short.format(number));
const rate = (number) => (number > 0 && number < 10 ? number.toFixed(1) : count(number));
const percent = (number) => `${number.toFixed(number < 10 ? 1 : 0)} %`;

function seconds(number) {
  if (number < 0.001) return `${Math.round(number * 1e6)} µs`;
  if (number < 1) return `${Number((number * 1e3).toPrecision(3))} ms`;
  return `${Number(number.toPrecision(3))} s`;
}

function uptime(number) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = Math.max(0, units.findIndex(([, size]) => number >= size));
  const parts = units.slice(number < 1 ? 3 : first).slice(0, 2);
  let rest = Math.floor(number);
  return parts.map(([unit, size]) => {
    const amount = Math.floor(rest / size);
    rest -= amount * size;
    return `${amount} ${unit}`;
  }).join(" ");
}

/** The next of 1, 2, 5, 10, 20… so that the scale seldom changes. */
function niceCeiling(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= number * 0.999999);
}

/** A chart of some lines; `sample` says their values, each null where there is none. */
class Chart {
  constructor({ title, lines, format, least, most, area }) {
    Object.assign(this, { title, format, least, most });
    const figure = at("chart").content.cloneNode(true).firstElementChild;
    figure.querySelector("h3").textContent = title;
    this.svg = figure.querySelector("svg");
    this.scale = figure.querySelector(".most");
    this.area = area ? this.path("area") : null;
    this.lines = lines.map((name, index) => {
      const item = document.createElement("li");
      const swatch = document.createElementNS(this.svg.namespaceURI, "svg");
      swatch.setAttribute("viewBox", "0 0 22 8");
      swatch.setAttribute("aria-hidden", "true");
      swatch.append(this.path(`line-${index}`, "M0 4H22"));
      const value = document.createElement("b");
      item.append(swatch, `${name} `, value);
      figure.querySelector(".legend").append(item);
      const line = { name, value, path: this.path(`line-${index}`), samples: Array(SAMPLES).fill(null), shown: null };
      this.svg.append(line.path);
      return line;
    });
    if (this.area) this.svg.prepend(this.area);
    at("charts").append(figure);
  }

  path(className, d = "") {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("class", className);
    path.setAttribute("d", d);
    return path;
  }

  /** Takes one value for each line, and what the legend says if that is something else. */
  sample(values, shown = values) {
    this.lines.forEach((line, index) => {
      line.samples.shift();
      line.samples.push(values[index] ?? null);
      line.shown = shown[index] ?? null;
    });
  }

  draw() {
    const highest = Math.max(this.least, ...this.lines.flatMap((line) => line.samples));
    const most = this.most ?? niceCeiling(highest);
    this.scale.textContent = this.format(most);
    for (const line of this.lines) {
      line.path.setAttribute("d", outline(line.samples, most));
      line.value.textContent = line.shown === null ? "–" : this.format(line.shown);
    }
    if (this.area) this.area.setAttribute("d", outline(this.lines[0].samples, most, true));
    const now = this.lines.map((line) => `${line.name} ${line.value.textContent}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.title}: ${now}`);
  }
}

/** The samples as a path, with gaps where there are none; `closed` down to the ground for a filled one. */
function outline(samples, most, closed = false) {
  const x = (index) => ((index / (SAMPLES - 1)) * 300).toFixed(1);
  let d = "";
  let start = null;
  samples.forEach((sample, index) => {
    if (sample === null) return;
    const y = (79.5 - (Math.min(sample, most) / most) * 79).toFixed(1);
    if (start === null) start = index;
    d += `${start === index ? (closed ? `M${x(index)} 79.5L` : "M") : "L"}${x(index)} ${y}`;
    if (samples[index + 1] === undefined || samples[index + 1] === null) {
      // A single sample is a dot.
      d += closed ? `L${x(index)} 79.5Z` : start === index ? "h0.1" : "";
      start = null;
    }
  });
  return d;
}

const latency = (title) => new Chart({ title, lines: ["p50", "p90", "p99"], format: seconds, least: 1e-5 });
const charts = {
  rate: new Chart({ title: "Events per second", lines: ["events/s"], format: rate, least: 1, area: true }),
  push: latency("Push latency"),
  pull: latency("Pull latency"),
  visibility: latency("Visibility delay"),
  fill: new Chart({ title: "Window fill", lines: ["of the capacity"], format: percent, least: 1, most: 100, area: true }),
  lag: new Chart({ title: "Followers' lag, events", lines: ["median", "p90", "furthest"], format: count, least: 1 }),
  resyncs: new Chart({ title: "Resyncs per second (total)", lines: ["evicted", "ahead", "other log"], format: count, least: 1 }),
};

const facts = new Map();

function setFact(name, value, title = value) {
  if (!facts.has(name)) {
    const [box, term, description] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    term.textContent = name;
    box.append(term, description);
    at("facts").append(box);
    facts.set(name, description);
  }
  facts.get(name).textContent = value;
  facts.get(name).title = title;
}

// The nodes of the cluster -------------------------------------------------------------------------------------------------

/** What was heard of each node, and when. The server forgets one that is silent; this page shows it for longer. */
const nodes = new Map();

function takeNodes(cluster) {
  const now = performance.now();
  const seen = new Map();
  for (const node of cluster.nodes) {
    // Names may be the same by mistake.
    const count = (seen.get(node.name) ?? 0) + 1;
    seen.set(node.name, count);
    nodes.set(count === 1 ? node.name : `${node.name} (${count})`, { ...node, at: now - node.heard_ms_ago });
  }
  for (const [name, node] of nodes) {
    node.silent = now - node.at;
    if (node.silent > FORGOTTEN_NODE_MILLIS) nodes.delete(name);
  }
}

function nodeRow([name, { silent, stale_ms: stale, lag, position, version }]) {
  const row = document.createElement("tr");
  const cell = (tag, text, className = "") => {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text;
    row.append(element);
    return element;
  };
  const state = silent > SILENT_NODE_MILLIS ? "silent" : stale > STALE_MILLIS ? "stale" : "fresh";
  row.dataset.state = state;
  cell("th", name).scope = "row";
  const time = { silent: ` for ${seconds(Math.round(silent / 1000))}`, stale: ` by ${seconds(Math.round(stale / 1000))}`, fresh: "" };
  cell("td", `${state}${time[state]}`, "state");
  cell("td", count(lag));
  cell("td", position);
  cell("td", version);
  return row;
}

function showNodes() {
  at("cluster").hidden = nodes.size === 0;
  const sorted = [...nodes].sort(([one], [other]) => (one < other ? -1 : 1));
  at("nodes").replaceChildren(...sorted.map(nodeRow));
}

// Connections --------------------------------------------------------------------------------------------------------------

let token = sessionStorage.getItem("ringlog-token");
let tokenGiven = () => {};
let paused = false;

function setStatus(state, text) {
  const status = at("status");
  if (status.textContent === text) return;
  status.dataset.state = state;
  status.textContent = text;
}

const sleep = (millis) => new Promise((done) => setTimeout(done, millis));

/** Asks for a path. Where a token is wanted, waits until one is given that is taken. */
async function ask(path, signal) {
  for (;;) {
    const given = token;
    const headers = given ? { Authorization: `Bearer ${given}` } : {};
    const answer = await fetch(path, { headers, cache: "no-store", signal: signal?.() });
    if (answer.ok) return answer;
    if (answer.status === 401) {
      await wantToken(given);
      continue;
    }
    const { error } = await answer.json().catch(() => ({ error: {} }));
    throw new Error(error.message ?? `the server answers ${answer.status}`);
  }
}

/** Resolves when another token is given than the one that was refused. */
async function wantToken(refused) {
  while (token === refused) {
    if (at("auth").hidden) {
      at("auth").hidden = false;
      at("token").focus();
    }
    at("refusal").textContent = refused ? "The server does not take this token." : "";
    setStatus("connecting", "This server wants a token");
    const before = tokenGiven;
    await new Promise((given) => {
      tokenGiven = () => { before(); given(); };
    });
  }
}

at("auth").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value;
  sessionStorage.setItem("ringlog-token", token);
  at("auth").hidden = true;
  setStatus("connecting", "Connecting…");
  const given = tokenGiven;
  tokenGiven = () => {};
  given();
});

// The figures --------------------------------------------------------------------------------------------------------------

let last = null;

function take(stats) {
  const goesOn = last !== null && last.incarnation === stats.incarnation;
  const elapsed = last === null ? 0 : stats.uptime_seconds - last.uptime_seconds;
  // Seqs go on when a server is started again, counters begin anew.
  const perSecond = (now, before) => (elapsed > 0 && goesOn ? Math.max(0, now - before) / elapsed : null);
  const { log, followers, latency_seconds: latencies } = stats;
  charts.rate.sample([perSecond(log.head, last?.log.head)]);
  for (const name of ["push", "pull", "visibility"]) {
    const { samples, p50, p90, p99 } = latencies[name];
    charts[name].sample(samples > 0 ? [p50, p90, p99] : []);
  }
  charts.fill.sample([(100 * log.retained) / stats.capacity]);
  charts.lag.sample(followers.count > 0 ? [followers.lag_p50, followers.lag_p90, followers.lag_max] : []);
  const reasons = ["resyncs_evicted", "resyncs_ahead", "resyncs_other_log"];
  charts.resyncs.sample(reasons.map((name) => perSecond(log[name], last?.log[name])), reasons.map((name) => log[name]));
  if (stats.cluster !== undefined) takeNodes(stats.cluster);
  last = stats;
}

function showStats() {
  for (const chart of Object.values(charts)) chart.draw();
  if (last === null) return;
  showNodes();
  setFact("Last seq", last.log.head);
  setFact("Oldest seq", last.log.oldest);
  setFact("Capacity", count(last.capacity));
  setFact("Connections", count(last.connections));
  setFact("Live streams", count(last.subscribers));
  setFact("Pushes waiting", count(last.pushes_waiting));
  setFact("Store", last.store);
  setFact("Running for", uptime(last.uptime_seconds));
  setFact("Incarnation", `${last.incarnation.slice(0, 8)}…`, last.incarnation);
}

async function poll() {
  for (;;) {
    const start = performance.now();
    try {
      take(await (await ask("/api/stats", () => AbortSignal.timeout(POLL_TIMEOUT_MILLIS))).json());
      // The server was away; a stream that has not noticed would wait for ever.
      if (missed) reconnect();
      missed = false;
    } catch {
      missed = true;
      for (const chart of Object.values(charts)) chart.sample([]);
    }
    if (!paused) showStats();
    await sleep(Math.max(100, POLL_MILLIS - (performance.now() - start)));
  }
}

let missed = false;
let reconnect = () => {};

// The tail -----------------------------------------------------------------------------------------------------------------

/** What is yet to be shown, newest last: no more than fits. */
let arrived = [];
let isDrawing = false;

function add(entry) {
  arrived.push(entry);
  if (arrived.length > TAIL_EVENTS) arrived = arrived.slice(-TAIL_EVENTS);
  drawTail();
}

function drawTail() {
  if (paused || isDrawing || arrived.length === 0) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    if (paused) return;
    const tail = at("tail");
    tail.prepend(...arrived.map(tailItem).reverse());
    arrived = [];
    while (tail.childElementCount > TAIL_EVENTS) tail.lastElementChild.remove();
    at("empty").hidden = true;
  });
}

/** One line: an event, or what is to be said between two. */
function tailItem({ change, mark }) {
  const item = document.createElement("li");
  const part = (tag, className, text) => {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = element.title = text;
    item.append(element);
    return element;
  };
  if (mark !== undefined) {
    part("span", "mark", mark);
    return item;
  }
  part("span", "seq", change.seq);
  part("time", "", change.timestamp.slice(11, 23)).dateTime = change.timestamp;
  part("span", change.kind, change.kind);
  part("span", "name", `${change.entity} / ${change.row_id}`);
  const data = change.data === undefined ? "" : JSON.stringify(change.data);
  part("span", "data", data.length > MAX_DATA_CHARACTERS ? `${data.slice(0, MAX_DATA_CHARACTERS)}…` : data);
  return item;
}

/**
 * Server-sent events, read with `fetch`: an EventSource cannot send a token, nor say why it was refused.
 * `lives` is called whenever something came.
 */
async function* serverSentEvents(body, lives) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    lives();
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const fields = { data: [] };
      for (const line of block.split("\n")) {
        const colon = line.indexOf(": ");
        const [name, value] = [line.slice(0, colon), line.slice(colon + 2)];
        // Data of several lines is several fields.
        if (name === "data") fields.data.push(value);
        else fields[name] = value;
      }
      if (fields.data.length > 0) yield { ...fields, data: JSON.parse(fields.data.join("\n")) };
    }
  }
}

/** Follows the log until the stream ends. `place` is the resume token of where this page stands, in which log; none: the head. */
async function followOnce(place, aborting) {
  let patience = SILENCE_MILLIS;
  let timer = null;
  // Something comes each heartbeat. If nothing comes in two, the connection is dead, though nothing says so.
  const lives = () => {
    clearTimeout(timer);
    timer = setTimeout(() => aborting.abort(), patience);
  };
  lives();
  try {
    const path = place.token === null ? "/api/sync/live" : `/api/sync/live?resume=${place.token}`;
    const answer = await ask(path, () => aborting.signal);
    setStatus("live", "Live");
    for await (const { id, event, data } of serverSentEvents(answer.body, lives)) {
      place.failures = 0;
      if (event === "heartbeat") patience = 2000 * data.heartbeat_seconds;
      if (event === "changes") for (const change of data.changes) add({ change });
      if (event === "resync") {
        const { reason, message } = data.error;
        add({ mark: `Events are missing here (${reason}): ${message.split(":")[0]}. Going on from the head.` });
        place.token = null;
      } else if (id !== undefined) {
        place.token = id;
      }
    }
    setStatus("lost", "The stream ended; connecting again…");
  } finally {
    clearTimeout(timer);
  }
}

async function follow() {
  const place = { token: null, failures: 0 };
  for (;;) {
    const aborting = new AbortController();
    reconnect = () => aborting.abort();
    try {
      await followOnce(place, aborting);
    } catch (error) {
      const why = error instanceof TypeError || error.name === "AbortError" ? "the server does not answer" : error.message;
      setStatus("lost", `Connection lost (${why}); trying again…`);
    }
    // Spread, so that the pages of many do not all come back at once.
    const most = RETRY_MILLIS[Math.min(place.failures, RETRY_MILLIS.length - 1)];
    await sleep(most * (0.5 + Math.random()));
    place.failures += 1;
  }
}

// The keyboard -------------------------------------------------------------------------------------------------------------

function togglePause() {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", paused);
  at("pause").firstElementChild.textContent = paused ? "Go on" : "Pause";
  if (paused) return;
  showStats();
  drawTail();
}

at("pause").addEventListener("click", togglePause);
document.addEventListener("keydown", (event) => {
  const isTyping = event.target instanceof HTMLInputElement;
  if (event.key.toLowerCase() === "p" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat) togglePause();
});

showStats();
poll();
follow();

"use strict";

/* The page of `amistream web`.

   Names, messages and errors come from volumes, buckets and other users. They reach the document as `textContent` and
   in attributes that hold text alone, never as markup; the page's Content-Security-Policy forbids anything else.

   `jobs` holds the newest row of each job. Messages of the stream change it; a frame later `draw` brings the document
   up to date, and touches only the jobs that changed. */

// ---------------------------------------------------------------- Small helpers

const $ = (id) => document.getElementById(id);
const part = (node, name) => node.querySelector(`[data-part="${name}"]`);
const copyOf = (template) => $(template).content.firstElementChild.cloneNode(true);
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** Make an element with a class, text and children. */
function element(tag, { className = "", text = "", ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter(Boolean));
  return node;
}

function replaceItems(list, texts) {
  const shown = [...list.children].map((item) => item.textContent);
  if (shown.join("\n") !== texts.join("\n")) list.replaceChildren(...texts.map((text) => element("li", { text })));
}

// ---------------------------------------------------------------- Numbers as text

const UNITS = [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]];

function sizeText(bytes) {
  if (bytes == null) return "–";
  const [name, unit] = UNITS.find(([, least]) => bytes >= least) ?? ["B", 1];
  return `${unit === 1 ? bytes : (bytes / unit).toFixed(1)} ${name}`;
}

/** Bytes of a whole, in the unit of the whole. */
function ofText(bytes, whole) {
  const [name, unit] = UNITS.find(([, least]) => whole >= least) ?? ["B", 1];
  const number = (size) => (unit === 1 ? String(size) : (size / unit).toFixed(1));
  return `${number(bytes)} of ${number(whole)} ${name}`;
}

const rateText = (rate) => (rate == null ? "–" : `${(rate / 2 ** 20).toFixed(1)} MiB/s`);
const percentText = (share) => `${Math.floor(share * 100)} %`;

function durationText(seconds) {
  if (seconds == null || !(seconds >= 0)) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

function ageText(moment) {
  const minutes = Math.max(0, Date.now() - Date.parse(moment)) / 60000;
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${Math.floor(minutes)} min`;
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h`;
  return `${Math.floor(minutes / 1440)} d`;
}

const timeText = (moment) => `${moment.slice(0, 10)} ${moment.slice(11, 19)} UTC`;
const costText = (cost) => (cost == null ? "–" : cost > 0 && cost < 0.005 ? "<0.01 USD" : `${cost.toFixed(2)} USD`);
const between = (from, to) => (from && to ? (Date.parse(to) - Date.parse(from)) / 1000 : null);
const counted = (count, thing) => `${count} ${thing}${count === 1 ? "" : "s"}`;

// ---------------------------------------------------------------- Requests

const KEY = "amistream-key";

/** The page's own secret: given once with the page, and kept for reloads by this port alone. */
function takeKey() {
  const given = document.querySelector('meta[name="page-key"]').content;
  if (given) localStorage.setItem(KEY, given);
  if (location.search) history.replaceState(null, "", location.pathname + location.hash);
  return localStorage.getItem(KEY) ?? "";
}

const key = takeKey();

class Refused extends Error {
  constructor(status, { message, hint = "" }) {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { "X-Amistream-Key": key }, redirect: "error" });
  if (response.ok) return response;
  let error = { message: `cannot use the answer of amistream web: status ${response.status}` };
  try {
    error = (await response.json()).error;
  } catch { /* no answer of amistream web */ }
  throw new Refused(response.status, error);
}

const sentence = (text) => (/[.?!]$/.test(text) ? text : `${text}.`);
const problemText = ({ message, hint }) => [message, hint && `Hint: ${hint}`].filter(Boolean).map(sentence).join(" ");
const jobPath = (id, verb = "") => `/api/jobs/${encodeURIComponent(id)}${verb}`;

// ---------------------------------------------------------------- The stream of jobs

const SILENCE_S = 45;
const HIDDEN_S = 2;
const LONGEST_PAUSE_S = 10;
const RATES_KEPT = 600;
const RATE_EVERY_S = 1;

const jobs = new Map();
const rates = new Map();
const changed = new Set();
let daemon = null;
let trouble = null;
let known = false;
let seenAt = null;
let drawing = false;
let retryNow = () => {};

async function follow() {
  let wait = 1;
  for (;;) {
    try {
      await readStream(() => { wait = 1; });
      trouble = { message: "The connection to amistream web has ended." };
    } catch (error) {
      if (error instanceof Refused && error.status === 403) {
        trouble = { message: "This page has no session any more.", hint: error.hint, over: true };
        draw();
        return;
      }
      trouble = { message: error instanceof Refused ? error.message : "Cannot reach amistream web." };
    }
    trouble.hint = "Has it ended, or the ssh tunnel? The page tries again by itself.";
    trouble.retry = true;
    drawSoon();
    await Promise.race([pause(wait), new Promise((resolve) => { retryNow = resolve; })]);
    wait = Math.min(wait * 2, LONGEST_PAUSE_S);
  }
}

async function readStream(onMessage) {
  const stop = new AbortController();
  let timer;
  const stillThere = () => {
    clearTimeout(timer);
    timer = setTimeout(() => stop.abort(), SILENCE_S * 1000);
  };
  try {
    stillThere();
    const response = await ask("/api/jobs", { signal: stop.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { done, value } = await reader.read();
      if (done) return;
      stillThere();
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) take(JSON.parse(line));
      onMessage();
    }
  } finally {
    clearTimeout(timer);
    stop.abort();
  }
}

function take(message) {
  if (!message.trouble) seenAt = new Date();
  daemon = message.daemon;
  trouble = message.trouble;
  if (message.everything) {
    for (const id of jobs.keys()) changed.add(id);
    jobs.clear();
    rates.clear();
    for (const [id, past] of Object.entries(message.rates)) rates.set(id, past);
    known = true;
  }
  announce((message.jobs ?? []).filter((job) => job.ended_at && jobs.has(job.id) && !jobs.get(job.id).ended_at));
  for (const job of message.jobs ?? []) {
    jobs.set(job.id, job);
    changed.add(job.id);
    takeRate(job);
  }
  for (const id of message.gone ?? []) {
    jobs.delete(id);
    changed.add(id);
  }
  drawSoon();
}

function takeRate({ id, progress, ended_at: endedAt }) {
  if (endedAt || !progress) {
    rates.delete(id);
    return;
  }
  const past = rates.get(id) ?? [];
  const last = past.at(-1)?.[0] ?? -Infinity;
  if (progress.elapsed_s < last) past.length = 0;
  if (!past.length || progress.elapsed_s - last >= RATE_EVERY_S) past.push([progress.elapsed_s, progress.rate]);
  if (past.length > RATES_KEPT) past.shift();
  rates.set(id, past);
}

function announce(ended) {
  if (!ended.length) return;
  const words = ended.slice(0, 3).map((job) => `${job.kind} ${job.source}: ${stateOf(job).word}`);
  if (ended.length > words.length) words.push(`and ${ended.length - words.length} more jobs have ended`);
  setText($("said"), words.join(". "));
}

function drawSoon() {
  if (drawing) return;
  drawing = true;
  // A tab in the background has no frames, and shows its title all the same.
  if (document.hidden) setTimeout(draw, HIDDEN_S * 1000);
  else requestAnimationFrame(draw);
}

// ---------------------------------------------------------------- Words about a job

/** The word for a state, and its kind: active, waiting, done, failed, unfinished or over. */
function stateOf(job) {
  if (job.state === "queued") return { word: job.place ? `waiting #${job.place}` : "waiting", is: "waiting" };
  if (!job.ended_at) return { word: job.state, is: "active" };
  if (job.state === "done") return { word: "done", is: "done" };
  if (job.state === "interrupted") return { word: "interrupted", is: "unfinished" };
  if (job.state === "cancelled") return { word: job.resumable ? "cancelled, not removed" : "cancelled", is: "over" };
  return { word: job.state, is: "failed" };
}

function showState(node, job) {
  const { word, is } = stateOf(job);
  setText(node, word);
  setAttribute(node, "data-is", is);
}

function targetText(job) {
  const { snapshot_id: snapshot } = job.result ?? {};
  if (snapshot) return `→ ${snapshot}`;
  if (job.kind === "verify") return "";
  return `→ ${job.destinations.length ? job.destinations.join(", ") : "EBS"}`;
}

/** The name that its submitter gave it: a label, or the name of a job of a queue. */
const labelOf = ({ label, name }) => label || name || "";

/** The size of the image as far as it is known, else that of the parts. */
const sizeOf = ({ result }) => result?.image_size || result?.bundled_size;

const imageOf = ({ result }) => result?.image_id ?? result?.image?.image_id ?? "";

// ---------------------------------------------------------------- Jobs in progress

const cards = new Map();

function drawCard(job) {
  let card = cards.get(job.id);
  if (!card) {
    card = copyOf("card");
    cards.set(job.id, card);
    part(card, "cancel").addEventListener("click", () => {
      if (!cancelling.has(job.id)) askToCancel(job.id, part(card, "problem"));
    });
  }
  const { progress } = job;
  setAttribute(card, "aria-label", `${job.kind} ${job.source}`);
  setText(part(card, "kind"), job.kind);
  setText(part(card, "source"), job.source);
  setText(part(card, "to"), targetText(job));
  showState(part(card, "state"), job);
  setText(part(card, "label"), labelOf(job));
  setText(part(card, "about"), job.id);
  setAttribute(part(card, "cancel"), "aria-label", `Cancel ${job.source}`);
  drawProgress(card, job, progress);
  replaceItems(part(card, "notices"), job.notices);
  return card;
}

function drawProgress(card, job, progress) {
  const share = progress ? progress.stored_share || (progress.bytes_total ? progress.bytes_done / progress.bytes_total : 0) : 0;
  const bar = part(card, "bar");
  bar.firstElementChild.style.transform = `scaleX(${share})`;
  if (progress) setAttribute(bar, "aria-valuenow", String(Math.floor(share * 100)));
  else bar.removeAttribute("aria-valuenow");
  setAttribute(bar, "aria-label", `Progress of ${job.source}`);
  part(card, "figures").hidden = part(card, "inside").hidden = !progress;
  setText(part(card, "share"), progress ? percentText(share) : "–");
  setText(part(card, "rate"), rateText(progress?.rate));
  setText(part(card, "eta"), progress?.eta_s == null ? "not known yet" : durationText(progress.eta_s));
  if (progress) drawFigures(card, job.kind, progress);
  part(card, "stages-box").hidden = !progress?.stages.length;
  drawStages(part(card, "stages"), progress);
  drawLimit(part(card, "limit"), progress);
  drawChart(part(card, "chart"), rates.get(job.id) ?? []);
}

/** Only bundles and conversions read a volume and store something else; the other kinds work on parts that exist. */
function drawFigures(card, kind, progress) {
  const work = { verify: "Checked", migrate: "Copied" }[kind];
  setText(part(card, "done-name"), work ?? "Read");
  setText(part(card, "done"), ofText(progress.bytes_done, progress.bytes_total));
  setText(part(card, "stored-name"), work ? "Parts" : "Stored");
  setText(part(card, "stored"), work ? `${progress.parts_stored} of ${progress.parts_made}` : sizeText(progress.bytes_stored));
  const number = kind === "convert" ? counted(progress.blocks_stored, "block") : counted(progress.parts_stored, "part");
  setText(part(card, "stored-number"), work ? "" : number);
}

function drawStages(list, progress) {
  const stages = progress?.stages ?? [];
  while (list.children.length > stages.length) list.lastElementChild.remove();
  while (list.children.length < stages.length) list.append(copyOf("stage"));
  stages.forEach((stage, number) => {
    const row = list.children[number];
    const limits = stage.name === progress.bottleneck;
    row.toggleAttribute("data-limits", limits);
    setText(part(row, "name"), stage.name);
    row.querySelector(".track > span").style.transform = `scaleX(${Math.min(1, stage.busy_share)})`;
    setText(part(row, "busy"), percentText(Math.min(1, stage.busy_share)));
    setText(part(row, "amount"), sizeText(["upload", "put"].includes(stage.name) ? stage.bytes_out : stage.bytes_in));
  });
}

function drawLimit(line, progress) {
  const name = progress?.bottleneck;
  const advice = (name && progress.advice) || "";
  if (line.dataset.text === `${name}\n${advice}`) return;
  line.dataset.text = `${name}\n${advice}`;
  line.replaceChildren(...(name ? [element("b", { text: `${name} limits the speed` }), advice && ` · ${advice}`] : []).filter(Boolean));
}

// ---------------------------------------------------------------- The chart of the rate

const CHART = { width: 300, height: 80, longest: 300, shortest: 60 };

function drawChart(figure, past) {
  const svg = figure.querySelector("svg");
  if (past.length < 2) {
    setText(part(figure, "chart-from"), "");
    setText(part(figure, "chart-top"), "in a few seconds");
    setAttribute(svg, "aria-label", "Rate: too early for a chart");
    return;
  }
  const now = past.at(-1)[0];
  if (figure.dataset.drawn === String(now)) return;
  figure.dataset.drawn = String(now);
  const span = Math.min(CHART.longest, Math.max(CHART.shortest, now - past[0][0]));
  const shown = past.filter(([at]) => at >= now - span);
  const most = Math.max(...shown.map(([, rate]) => rate), 1);
  const top = most * 1.15;
  const points = shown.map(([at, rate]) => {
    const x = CHART.width * (1 - (now - at) / span);
    return `${x.toFixed(1)} ${(CHART.height * (1 - rate / top)).toFixed(1)}`;
  });
  const line = `M${points.join("L")}`;
  const from = points[0].split(" ")[0];
  svg.querySelector(".line").setAttribute("d", line);
  svg.querySelector(".area").setAttribute("d", `${line}L${CHART.width} ${CHART.height}L${from} ${CHART.height}Z`);
  setText(part(figure, "chart-top"), `highest ${rateText(most)}`);
  setText(part(figure, "chart-from"), `${Math.round(span / 60)} min ago`);
  const words = `Rate over the last ${durationText(now - shown[0][0])}: now ${rateText(shown.at(-1)[1])}`;
  setAttribute(svg, "aria-label", `${words}, highest ${rateText(most)}`);
}

// ---------------------------------------------------------------- The list of all other jobs

const rows = new Map();

function drawRow(job) {
  let row = rows.get(job.id);
  if (!row) {
    row = copyOf("row");
    rows.set(job.id, row);
    row.firstElementChild.addEventListener("toggle", (event) => {
      if (event.target.open) showDetail(job.id, part(row, "detail"));
    });
  }
  showState(part(row, "state"), job);
  setText(part(row, "kind"), job.kind);
  setText(part(row, "source"), job.source);
  setText(part(row, "to"), targetText(job));
  setText(part(row, "label"), labelOf(job));
  setText(part(row, "made"), imageOf(job) || job.error?.code || "");
  part(row, "made").toggleAttribute("data-failed", Boolean(job.error) && !imageOf(job));
  setText(part(row, "size"), sizeText(sizeOf(job)));
  setText(part(row, "took"), durationText(between(job.started_at, job.ended_at)));
  drawAge(row, job);
  if (row.firstElementChild.open) showDetail(job.id, part(row, "detail"));
  return row;
}

function drawAge(row, job) {
  const age = part(row, "age");
  setText(age, ageText(job.created_at));
  setAttribute(age, "datetime", job.created_at);
  setAttribute(age, "title", timeText(job.created_at));
}

async function showDetail(id, detail) {
  if (!detail.childElementCount) detail.replaceChildren(element("p", { className: "quiet", text: "Loading …" }));
  let job;
  try {
    job = await (await ask(jobPath(id))).json();
  } catch (error) {
    detail.replaceChildren(element("p", { className: "problem", text: problemText(error) }));
    return;
  }
  const problem = element("p", { className: "problem wide", role: "alert", hidden: "" });
  const buttons = actions(job, problem);
  const before = detail.querySelector(".log");
  const focused = detail.contains(document.activeElement) ? document.activeElement.dataset.verb : null;
  detail.replaceChildren(
    ...[errorBlock(job), facts(job), stageTable(job.result?.stages), differences(job), notices(job), logBlock(id, before), buttons, problem].filter(Boolean),
  );
  if (focused) (detail.querySelector(`[data-verb="${focused}"]`) ?? rows.get(id)?.querySelector("summary"))?.focus();
}

/** The log of a job, which is asked for when it is opened; `before` is the block that was shown until now. */
function logBlock(id, before) {
  if (before?.open) {
    showLog(id, before.lastElementChild);
    return before;
  }
  const block = element("details", { className: "fold log wide" }, element("summary", { text: "Log" }), element("ol"));
  block.addEventListener("toggle", () => {
    if (block.open) showLog(id, block.lastElementChild);
  });
  return block;
}

async function showLog(id, list) {
  let lines;
  try {
    lines = (await (await ask(jobPath(id, "/log"))).json()).lines;
  } catch (error) {
    list.replaceChildren(element("li", { className: "problem", text: problemText(error) }));
    return;
  }
  if (!lines.length) lines = [{ at: "", event: "nothing was logged", level: "info", fields: {} }];
  list.replaceChildren(...lines.map(({ at, level, event, fields }) => {
    const values = Object.entries(fields).filter(([, value]) => value !== null && value !== "" && value?.length !== 0);
    const words = values.map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`);
    const item = element("li", { text: [at.slice(11, 19), event, ...words].filter(Boolean).join("  ") });
    if (level !== "info") item.dataset.level = level;
    return item;
  }));
}

function errorBlock({ error }) {
  if (!error) return null;
  return element(
    "div", { className: "error wide" },
    element("strong", { text: error.message }), error.hint && element("p", { text: error.hint }),
    element("p", {}, element("code", { text: [error.code, error.request_id && `AWS request ${error.request_id}`].filter(Boolean).join(", ") })),
  );
}

function facts(job) {
  const result = job.result ?? {};
  const places = (result.places ?? []).length > 1 ? result.places : [];
  const found = [
    ["Job", job.id],
    ["Kind", job.kind],
    ["Label", job.label],
    ["Name", job.name],
    ["User", job.user == null ? "" : `id ${job.user}`],
    ["Source", job.source],
    ...job.destinations.map((destination) => ["Destination", destination]),
    ["AMI", imageOf(job) && [imageOf(job), result.image_name ?? result.image?.image_name].filter(Boolean).join(", ")],
    ["Snapshot", result.snapshot_id],
    ["Region", result.region],
    ["Manifest", result.manifest !== job.source && result.manifest],
    ...places.map((place) => [place.region ?? place.destination, place.error?.message ?? place.image_id ?? place.manifest]),
    ["Size", result.image_size && sizeText(result.image_size)],
    [job.kind === "migrate" ? "Copied" : "Bundled", result.bundled_size && bundledText(result)],
    ["Blocks", result.blocks && `${result.blocks} of ${result.blocks_read}, the others are zeros`],
    ["Rate", result.elapsed_s && job.kind !== "verify" && rateText(sizeOf(job) / result.elapsed_s)],
    ["Limit", result.advice || result.bottleneck],
    ["Signature", result.signature],
    ["Access", result.access],
    ["Differences", result.differences && String(result.differences.length || "none")],
    ["Reached", job.ended_at && !job.result && job.progress && reachedText(job.progress)],
    ["Kept", job.resumable && keptText(job)],
    ["Created", timeText(job.created_at)],
    ["Started", job.started_at && timeText(job.started_at)],
    ["Ended", job.ended_at && timeText(job.ended_at)],
    ["Looks again", job.looks_again_at && timeText(job.looks_again_at)],
  ].filter(([, value]) => value);
  return element(
    "dl", { className: "facts" }, ...found.flatMap(([name, text]) => [element("dt", { text: name }), element("dd", { text })]),
  );
}

function stageTable(stages) {
  if (!stages?.length) return null;
  const list = element("ul", { className: "stages" });
  drawStages(list, { stages, bottleneck: null });
  const title = element("h3", { text: "Stages " }, element("small", { text: "share of the time that each was busy" }));
  return element("div", {}, title, list);
}

function bundledText({ bundled_size: size, parts, kept }) {
  return `${sizeText(size)} in ${counted(parts, "part")}${kept ? `; ${kept} of them were there already` : ""}`;
}

const reachedText = ({ stored_share: share, bytes_done: done, bytes_total: total }) => `${percentText(share)}, ${ofText(done, total)}`;

function keptText({ kind, kept_parts: parts, kept_blocks: blocks }) {
  if (kind === "convert") return blocks && counted(blocks, "block");
  return parts && counted(parts, "part");
}

function notices(job) {
  const texts = [...job.notices, ...(job.result?.notes ?? [])];
  if (!texts.length) return null;
  return element("ul", { className: "notices wide" }, ...texts.map((text) => element("li", { text })));
}

function differences({ result }) {
  if (!result?.differences?.length) return null;
  const list = element("ul", {}, ...result.differences.map(({ message }) => element("li", { text: message })));
  return element("details", { className: "fold wide" }, element("summary", { text: counted(list.children.length, "difference") }), list);
}

function actions(job, problem) {
  const buttons = element("div", { className: "buttons wide" });
  if (job.resumable) {
    const resume = element("button", { type: "button", text: "Resume", "data-verb": "resume", "aria-label": `Resume ${job.source}` });
    resume.addEventListener("click", () => change(job.id, "resume", problem));
    buttons.append(resume);
  }
  if (job.resumable || !job.ended_at) {
    const text = job.ended_at && job.kind !== "verify" ? "Remove what it stored" : "Cancel";
    const cancel = element("button", { type: "button", text, "data-verb": "cancel", "aria-label": `${text}: ${job.source}` });
    cancel.addEventListener("click", () => askToCancel(job.id, problem));
    buttons.append(cancel);
  }
  return buttons.childElementCount ? buttons : null;
}

// ---------------------------------------------------------------- Cancel and resume

/** Jobs whose cancel the daemon has accepted: it takes a while to remove what they stored. */
const cancelling = new Set();
let confirmed = () => {};
let asked = null;

/** The things that a job of a kind stores. */
const STORED = { bundle: "stored parts", convert: "snapshot and its blocks", migrate: "copied parts" };

/** The consequence of a cancel. */
function lossText(job) {
  const stored = STORED[job.kind];
  if (!stored) return "A verification stores nothing, so nothing is removed.";
  if (job.state === "queued" && !keptText(job)) return "It has stored nothing yet.";
  return `Its ${stored} are removed; it cannot be resumed afterwards.`;
}

function askToCancel(id, problem) {
  const job = jobs.get(id);
  if (!job) return;
  const removes = job.ended_at && job.kind !== "verify";
  setText($("confirm-title"), removes ? "Remove what this job stored?" : "Cancel this job?");
  setText($("confirm-text"), `${[job.kind, job.source, targetText(job)].filter(Boolean).join(" ")}. ${lossText(job)}`);
  setText($("confirm-yes"), removes ? "Yes, remove it" : "Yes, cancel the job");
  confirmed = () => change(id, "cancel", problem);
  asked = { id, hasEnded: Boolean(job.ended_at) };
  $("confirm").showModal();
  $("confirm-no").focus();
}

async function change(id, verb, problem) {
  problem.hidden = true;
  try {
    await ask(jobPath(id, `/${verb}`), { method: "POST" });
    if (verb === "cancel" && cards.has(id)) cancelling.add(id);
    if (cards.has(id)) drawCancel(id);
    setText($("said"), verb === "cancel" ? "The job is being cancelled." : "The job is resumed.");
  } catch (error) {
    setText(problem, problemText(error));
    problem.hidden = false;
  }
}

function drawCancel(id) {
  const button = part(cards.get(id), "cancel");
  setText(button, cancelling.has(id) ? "Cancelling …" : "Cancel");
  setAttribute(button, "aria-disabled", String(cancelling.has(id)));
}

/** Close the question when its job has ended, or runs again: its answer would be about something else. */
function withdrawQuestion() {
  const job = jobs.get(asked?.id);
  if (!$("confirm").open || (job && Boolean(job.ended_at) === asked.hasEnded)) return;
  $("confirm").close();
  focusJob(asked.id);
}

// ---------------------------------------------------------------- Drawing

const search = $("search");
let shownState = "all";
let newestCard;

function matches(job) {
  const { is } = stateOf(job);
  const fits = {
    all: true, queued: is === "waiting", done: is === "done", failed: is === "failed" || is === "unfinished" || Boolean(job.resumable), resumable: Boolean(job.resumable),
  }[shownState];
  const words = search.value.trim().toLowerCase();
  if (!fits || !words) return fits;
  return [job.id, job.source, job.kind, ...job.destinations, imageOf(job), job.result?.snapshot_id, job.label, job.name, job.error?.code].join("\n").toLowerCase().includes(words);
}

const isCard = (job) => !job.ended_at && job.state !== "queued";
const newestFirst = (one, other) => (one.created_at < other.created_at ? 1 : one.created_at > other.created_at ? -1 : 0);

function draw() {
  drawing = false;
  const lost = focusThatGoes();
  let moved = false;
  let rowChanged = false;
  for (const id of changed) {
    const job = jobs.get(id);
    const [here, there] = job && isCard(job) ? [cards, rows] : [rows, cards];
    moved = drop(there, id) || moved;
    moved = (job ? !here.has(id) : drop(here, id)) || moved;
    rowChanged ||= here === rows;
    if (!job || job.ended_at) cancelling.delete(id);
    if (job) (here === cards ? drawCard : drawRow)(job);
  }
  changed.clear();
  if (moved) {
    const sorted = [...jobs.values()].sort(newestFirst);
    arrange($("cards"), sorted.filter(isCard).map(({ id }) => cards.get(id)));
    arrange($("rows"), sorted.filter((job) => !isCard(job)).map(({ id }) => rows.get(id)));
    newestCard = sorted.find(isCard)?.id;
  }
  if (moved || rowChanged) filter();
  drawHeadings();
  drawDaemon();
  drawTrouble();
  drawTitle(jobs.get(newestCard));
  if (lost) focusJob(lost);
  withdrawQuestion();
}

const focusJob = (id) => (rows.get(id)?.querySelector("summary") ?? cards.get(id)?.querySelector("h3") ?? $("content")).focus();

function drawHeadings() {
  $("no-jobs").hidden = !known || jobs.size > 0;
  $("no-cards").hidden = !known || cards.size > 0 || jobs.size === 0;
  $("jobs-title").hidden = jobs.size === 0;
  document.querySelector(".list-head").hidden = rows.size === 0;
  document.querySelector(".row-head").hidden = rows.size === 0;
  $("running").hidden = cards.size === 0;
  setText($("running-count"), String(cards.size));
}

/** The job that has the focus and is about to go from the cards to the list, or back: it keeps the focus. */
function focusThatGoes() {
  for (const id of changed) {
    const job = jobs.get(id);
    const node = cards.get(id) ?? rows.get(id);
    if (node?.contains(document.activeElement) && !(job && isCard(job) === cards.has(id))) return id;
  }
  return null;
}

/** Take a node out of the document; true if it was there. */
function drop(nodes, id) {
  nodes.get(id)?.remove();
  return nodes.delete(id);
}

/** Bring the children of a node into an order, and touch only those that are not in place. */
function arrange(parent, nodes) {
  let at = parent.firstElementChild;
  for (const node of nodes) {
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
}

function filter() {
  let count = 0;
  for (const [id, row] of rows) {
    const job = jobs.get(id);
    const shown = job !== undefined && matches(job);
    if (row.hidden === shown) row.hidden = !shown;
    count += shown;
  }
  $("no-match").hidden = rows.size === 0 || count > 0;
  $("rows").hidden = count === 0;
  setText($("list-title"), cards.size ? "All others" : "Jobs");
}

function drawDaemon() {
  const box = $("daemon");
  if (!daemon || trouble) {
    setAttribute(box, "data-is", known || trouble ? "down" : "");
    if (trouble) setText($("daemon-text"), "Not connected");
    return;
  }
  setAttribute(box, "data-is", daemon.status === "ok" ? "up" : "stopping");
  const words = daemon.status === "ok" ? "daemon" : "daemon is stopping,";
  setText($("daemon-text"), `${words} ${daemon.version} · ${daemon.jobs_running} running, ${daemon.jobs_queued} waiting`);
  drawHost();
}

function drawTrouble() {
  const box = $("trouble");
  document.body.toggleAttribute("data-stale", Boolean(trouble));
  if (!trouble) {
    box.hidden = true;
    return;
  }
  setText(part(box, "message"), trouble.message);
  const again = trouble.retry || trouble.over ? "" : "The page tries again by itself";
  const since = seenAt && `This is the state of ${seenAt.toLocaleTimeString()}`;
  setText(part(box, "hint"), [trouble.hint, again, since].filter(Boolean).map(sentence).join(" "));
  $("retry").hidden = !trouble.retry;
  box.hidden = false;
}

function drawTitle(job) {
  const progress = job?.progress;
  document.title = progress ? `${percentText(progress.stored_share)} · amistream` : "amistream";
}

// ---------------------------------------------------------------- Bundles

const ROWS_AT_ONCE = 100;

async function showBundles() {
  const holder = $("buckets");
  if (holder.childElementCount) return;
  let names;
  try {
    names = (await (await ask("/api/buckets")).json()).buckets;
  } catch (error) {
    holder.replaceChildren(element("p", { className: "problem", text: problemText(error) }));
    return;
  }
  $("no-buckets").hidden = names.length > 0;
  holder.replaceChildren(...names.map(bucketCard));
}

function bucketCard(name, number) {
  const card = copyOf("bucket");
  setText(part(card, "name"), name);
  const again = part(card, "again");
  setAttribute(again, "aria-label", `List ${name} again`);
  again.addEventListener("click", () => list(card, number, "?anew"));
  list(card, number, "");
  return card;
}

async function list(card, number, query) {
  const again = part(card, "again");
  const problem = part(card, "problem");
  if (again.getAttribute("aria-disabled") === "true") return;
  again.setAttribute("aria-disabled", "true");
  problem.hidden = true;
  setText(part(card, "state"), "Listing …");
  try {
    const listing = await (await ask(`/api/buckets/${number}${query}`)).json();
    drawListing(card, listing);
    setText(part(card, "state"), `Listed at ${timeText(listing.listed_at)}.`);
  } catch (error) {
    setText(part(card, "state"), "");
    setText(problem, problemText(error));
    problem.hidden = false;
  }
  again.removeAttribute("aria-disabled");
}

function drawListing(card, { inventory, notes }) {
  const cost = inventory.cost == null ? "" : `, about ${costText(inventory.cost)} a month`;
  setText(part(card, "sum"), `${inventory.region} · ${counted(inventory.bundles.length, "bundle")}, ${sizeText(inventory.stored)}${cost}`);
  replaceItems(part(card, "notes"), notes);
  const newest = (one, other) => Date.parse(other.made_at) - Date.parse(one.made_at);
  const parts = inventory.orphan_parts;
  const images = inventory.orphan_images;
  const left = inventory.leftovers;
  part(card, "tables").replaceChildren(
    ...[
      inventory.bundles.length
        ? table("Bundles", BUNDLE_COLUMNS, [...inventory.bundles].sort(newest), inventory)
        : element("p", { className: "quiet", text: "No bundle is there." }),
      ...(parts.length ? titled("Parts without a manifest", PARTS_COLUMNS, parts, inventory) : []),
      ...(images.length ? titled("AMIs without a manifest", IMAGE_COLUMNS, images, inventory) : []),
      ...(left.length ? titled("Left by processes that were killed", LEFTOVER_COLUMNS, left, inventory) : []),
    ].filter(Boolean),
  );
}

const shortened = (address, { location }) => (address.startsWith(`${location}/`) ? address.slice(location.length + 1) : address);

const BUNDLE_COLUMNS = [
  { name: "Manifest", whole: true, text: ({ manifest }, inventory) => shortened(manifest, inventory), flaw: ({ problem }) => problem },
  {
    name: "AMI", mono: true, whole: true, isNone: ({ images }) => !images?.length,
    text: ({ images }) => (images === null ? "? not known" : images.join(", ") || "no AMI"),
  },
  { name: "Image", right: true, text: ({ image_size: size }) => (size ? sizeText(size) : "–") },
  { name: "Stored", right: true, text: ({ stored }) => sizeText(stored) },
  { name: "Parts", right: true, text: ({ parts }) => String(parts || "–") },
  { name: "Cost a month", right: true, text: ({ cost }) => costText(cost) },
  { name: "Age", right: true, text: ({ made_at: madeAt }) => ageText(madeAt) },
];
const PARTS_COLUMNS = [
  { name: "Parts", whole: true, text: ({ parts }, inventory) => shortened(parts, inventory) },
  { name: "Number", right: true, text: ({ count }) => String(count) },
  { name: "Stored", right: true, text: ({ stored }) => sizeText(stored) },
  { name: "Cost a month", right: true, text: ({ cost }) => costText(cost) },
  { name: "Age", right: true, text: ({ newest_at: newestAt }) => ageText(newestAt) },
];
const IMAGE_COLUMNS = [
  { name: "AMI", mono: true, whole: true, text: ({ image_id: id }) => id },
  { name: "Manifest that is not there", whole: true, text: ({ location }) => location },
];
const LEFT_BY = { probe: "a measurement", upload: "an unfinished upload", claim: "a claim of a job that is over" };
const LEFTOVER_COLUMNS = [
  { name: "Object", whole: true, text: ({ objects }, inventory) => shortened(objects, inventory) },
  { name: "Left by", text: ({ kind }) => LEFT_BY[kind] },
  { name: "Number", right: true, text: ({ count }) => String(count) },
  { name: "Stored", right: true, text: ({ stored }) => (stored === null ? "–" : sizeText(stored)) },
  { name: "Age", right: true, text: ({ newest_at: newestAt }) => ageText(newestAt) },
];
const HOST_COLUMNS = [
  { name: "Host", whole: true, text: ({ host }) => host },
  { name: "Done", right: true, text: ({ done }) => String(done) },
  { name: "Failed", right: true, text: ({ failed }) => String(failed) },
  { name: "Last result", right: true, text: ({ last_at: lastAt }) => `${ageText(lastAt)}` },
];

function titled(title, columns, items, context) {
  return [element("h4", { className: "table-title", text: title }), table(title, columns, items, context)];
}

/** A table that keeps its meaning for screen readers where CSS shows its rows as blocks. */
function table(title, columns, items, context, shown = ROWS_AT_ONCE) {
  const head = element("tr", { role: "row" }, ...columns.map(({ name, right }) => (
    element("th", { role: "columnheader", scope: "col", text: name, className: right ? "right" : "" }))));
  const body = element("tbody", { role: "rowgroup" });
  const made = element("table", { role: "table", "aria-label": title }, element("thead", { role: "rowgroup" }, head), body);
  const box = element("div", {}, made);
  const more = element("button", { type: "button", className: "more" });
  const show = (count) => {
    const from = body.childElementCount;
    body.append(...items.slice(from, from + count).map((item) => tableRow(columns, item, context)));
    const left = items.length - body.childElementCount;
    setText(more, left > ROWS_AT_ONCE ? `Show ${ROWS_AT_ONCE} more of ${left}` : `Show ${left} more`);
    if (left && !more.isConnected) box.append(more);
    if (!left && more.isConnected) {
      // The focus goes on with the rows that came.
      setAttribute(body.children[from], "tabindex", "-1");
      body.children[from].focus();
      more.remove();
    }
  };
  more.addEventListener("click", () => show(ROWS_AT_ONCE));
  show(Math.max(shown, ROWS_AT_ONCE));
  return box;
}

function tableRow(columns, item, context) {
  return element("tr", { role: "row" }, ...columns.map(({ name, right, mono, whole, text, flaw, isNone }) => {
    const className = [right && "right", mono && "mono", whole && "whole-line", isNone?.(item) && "none"].filter(Boolean).join(" ");
    const problem = flaw?.(item);
    return element(
      "td", { role: "cell", className, text: text(item, context), ...(whole ? {} : { "data-label": name }) },
      problem && element("span", { className: "flaw", text: problem }),
    );
  }));
}

// ---------------------------------------------------------------- The queue of the fleet

const QUEUE_EVERY_S = 15;

async function showQueue() {
  let looked;
  try {
    looked = await (await ask("/api/queue")).json();
  } catch (error) {
    $("fleet").replaceChildren(element("p", { className: "problem", text: problemText(error) }));
    return;
  }
  $("no-queue").hidden = looked.fleet !== null;
  if (looked.fleet) drawFleet(looked.fleet, looked.looked_at);
}

function drawFleet(fleet, lookedAt) {
  const { results } = fleet;
  const shown = $("fleet").querySelector("tbody")?.childElementCount;
  const hasFocus = $("fleet").contains(document.activeElement);
  const tiles = [
    ["Waiting", String(fleet.waiting)],
    ["Running", String(fleet.running)],
    ...(fleet.delayed ? [["Delayed", String(fleet.delayed)]] : []),
    ["Dead letters", fleet.dead === null ? "no queue" : String(fleet.dead), fleet.dead],
    ...(results ? [["Done", String(results.done)], ["Failed", String(results.failed), results.failed]] : []),
    ...(results?.rate_per_hour != null ? [["Done an hour", results.rate_per_hour.toFixed(0)]] : []),
    ...(fleet.eta_s != null ? [["Time left, about", durationText(fleet.eta_s)]] : []),
  ];
  $("fleet").replaceChildren(element(
    "article", { className: "card" },
    element("h3", { text: fleet.queue }),
    element("p", { className: "quiet", text: `Counted at ${timeText(lookedAt)}; SQS counts approximately.` }),
    tileList(tiles),
    results ? null : element("p", { className: "quiet", text: "Done and failed jobs are not known: the results are not in a queue (--results sqs:URL)." }),
    results?.hosts.length ? table("Hosts that sent results", HOST_COLUMNS, results.hosts, null, shown) : null,
  ));
  if (hasFocus) ($("fleet").querySelector("button") ?? $("content")).focus({ preventScroll: true });
}

function tileList(tiles) {
  return element("dl", { className: "tiles" }, ...tiles.map(([name, text, bad]) => (
    element("div", {}, element("dt", { text: name }), element("dd", { text, ...(bad ? { "data-is": "failed" } : {}) })))));
}

function drawHost() {
  const queue = daemon?.queue;
  $("host-title").hidden = !queue;
  if (!queue) {
    $("host").replaceChildren();
    return;
  }
  const text = JSON.stringify({ ...queue, lease_s: null });
  if ($("host").dataset.text === text) return;
  $("host").dataset.text = text;
  $("host").replaceChildren(element(
    "article", { className: "card" },
    element("h3", { text: queue.url }),
    tileList([["State", queue.status, queue.status === "trouble"], ["Jobs here", String(queue.jobs)], ["Free places", String(queue.places)],
      ["Results to send", String(queue.results_waiting)]]),
    ...queue.errors.map((error) => errorBlock({ error })),
  ));
}

// ---------------------------------------------------------------- Views

const VIEWS = ["jobs", "bundles", "queue"];

function currentView() {
  const named = location.hash.slice(1);
  return VIEWS.includes(named) ? named : "jobs";
}

function showView() {
  const view = currentView();
  for (const section of document.querySelectorAll("[data-of]")) section.hidden = section.dataset.of !== view;
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view === "bundles") showBundles();
  if (view === "queue") showQueue();
}

addEventListener("hashchange", showView);
document.addEventListener("visibilitychange", draw);
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("content").focus();
});
$("retry").addEventListener("click", () => retryNow());
$("confirm-no").addEventListener("click", () => $("confirm").close());
$("confirm-yes").addEventListener("click", () => {
  $("confirm").close();
  confirmed();
});
for (const input of document.querySelectorAll('input[name="state"]')) {
  input.addEventListener("change", () => {
    shownState = input.value;
    filter();
  });
}
search.addEventListener("input", filter);
setInterval(() => {
  for (const [id, row] of rows) if (jobs.has(id)) drawAge(row, jobs.get(id));
}, 30000);
setInterval(() => {
  if (!document.hidden && currentView() === "queue") showQueue();
}, QUEUE_EVERY_S * 1000);
showView();
follow();

// The gateway as a whole, and what happens: changes, refusals, callers and jobs.

const TILES = {
  rate: { label: "Requests", rows: (samples) => [column(samples, "all")], unitOf: (value) => `${rate(value)} a second` },
  failed: { label: "Failed", rows: (samples) => [column(samples, "failed")], unitOf: (value) => `${rate(value)} a second` },
  p50: { label: "Time, median", rows: (samples) => [column(samples, "p50")], unitOf: milliseconds },
  p99: { label: "Time, 99th percentile", rows: (samples) => [column(samples, "p99")], unitOf: milliseconds },
  waiting: { label: "Waiting", rows: (samples) => [column(samples, "waiting")], unitOf: (value) => `${count(value)} requests` },
  open: { label: "Connections", rows: () => [[]], unitOf: count },
};

function makeTiles() {
  for (const [key, tile] of Object.entries(TILES)) {
    tile.value = make("span", {}, "–");
    tile.unit = make("span", { class: "unit" });
    tile.chart = makeChart();
    const hasChart = key !== "open";
    tile.note = make("div", { class: "dim", hidden: hasChart }, "\u00a0");
    tile.chart.toggleAttribute("hidden", !hasChart);
    byId("tiles").append(make("div", { class: "tile" }, make("h2", {}, tile.label), make("div", { class: "value" }, tile.value, tile.unit), tile.chart, tile.note));
  }
}

function setTile(key, value, unit = "") {
  write(TILES[key].value, value);
  write(TILES[key].unit, unit);
}

function updateTiles() {
  const names = Object.keys(model.figures.pools);
  const sum = names.map((name) => rates(name)).reduce((all, one) => ({ ok: all.ok + one.okRate, failed: all.failed + one.failedRate }), { ok: 0, failed: 0 });
  const all = sum.ok + sum.failed;
  setTile("rate", rate(all), "/s");
  setTile("failed", all ? ((sum.failed / all) * 100).toFixed(1) : "0", "%");
  const last = joined(names).at(-1);
  const withUnit = (key, time) => {
    const [number, ...unit] = milliseconds(time || null).split(" ");
    setTile(key, number, unit.join(" "));
  };
  withUnit("p50", last?.p50);
  withUnit("p99", last?.p99);
  setTile("waiting", count(names.reduce((sum, name) => sum + model.figures.pools[name].waiting, 0)));
  const { open, turned_away: turnedAway } = model.figures.gateway;
  setTile("open", count(open));
  write(TILES.open.note, turnedAway ? `${count(turnedAway)} turned away` : "none turned away");
}

function updateTileCharts() {
  const samples = joined(Object.keys(model.figures.pools));
  for (const tile of Object.values(TILES)) drawChart(tile.chart, tile.label, tile.unitOf, ...tile.rows(samples));
}

// Says in a word how the gateway does.
function updateHealth() {
  let [total, serving, isDown] = [0, 0, false];
  for (const members of Object.values(model.figures.members)) {
    const all = Object.values(members);
    const up = all.filter((member) => member.serves).length;
    total += all.length;
    serving += up;
    isDown ||= all.length > 0 && up === 0;
  }
  const [kind, text] = isDown ? ["is-bad", "Down"] : serving < total ? ["is-warn", "Degraded"] : ["is-good", "Healthy"];
  setClass(byId("health"), `health ${kind}`);
  write(byId("health").lastChild, `${text}: ${serving} of ${total} serve`);
  const { version, began, reload_error: error } = model.figures.gateway;
  write(byId("version"), version);
  write(byId("uptime"), `up ${span(model.figures.now - began)}`);
  setNotice(error ? `The configuration file was not taken at the last reload: ${error}` : "");
  document.title = (isDown ? "■ " : serving < total ? "▲ " : "") + "Leasehold";
}

function setNotice(text) {
  byId("notice").hidden = !text;
  write(byId("notice"), text);
}

const panels = {};

function panel(key, title, ...children) {
  if (!panels[key]) {
    const note = make("span", { class: "dim" });
    const body = make("div");
    const element = make("section", { class: "panel", "aria-label": title }, make("h2", {}, title, note), body);
    panels[key] = { element, note, body };
    byId("panels").append(element);
  }
  if (children.length) panels[key].body.replaceChildren(...children);
  return panels[key];
}

const WORDS = {
  up: "is up", down: "is down", ejected: "is ejected", breaker_open: "breaker opened", breaker_half_open: "breaker half open",
  breaker_closed: "breaker closed", job_lost: "lost a job", waiting_above: "too many jobs wait", waiting_below: "no longer too many jobs wait",
  wait_above: "a job waits for too long", wait_below: "no job waits for too long any more", added: "was added", removed: "was removed",
  disabled: "was disabled", enabled: "was enabled", draining: "drains", drained: "has drained", limits: "limits were changed",
};

// Shows the newest entries of a list; those that were there already stay, with the focus and the place of the reader.
function showNewest(key, title, entries, view, nothing) {
  const { body } = panel(key, title);
  const list = body.list ?? make("ol", { tabindex: "0", "aria-label": title });
  body.list = list;
  const newest = entries.slice(-60).reverse();
  const known = new Map([...list.children].map((item) => [item.number, item]));
  place(list, newest.map((entry) => known.get(entry.n) ?? Object.assign(view(entry), { number: entry.n })));
  place(body, [newest.length ? list : (body.nothing ??= make("p", { class: "empty" }, nothing))]);
}

function updateChanges() {
  const view = ({ at, pool, backend, change, weight, for_ms: time }) => {
    const word = change === "weight" ? `has weight ${weight}` : (WORDS[change] ?? change);
    return make("li", {}, make("time", {}, clock(at)), make("b", {}, backend ?? pool), ` ${word}${time ? ` for ${span(time)}` : ""}`, make("span", { class: "dim" }, pool));
  };
  showNewest("changes", "Changes", model.changes, view, "Nothing has changed since the gateway began.");
}

function updateRefusals() {
  const view = ({ at, status, code, why, request, client }) =>
    make("li", {}, make("time", {}, clock(at)), make("b", {}, `${status} ${code}`), make("span", { class: "dim" }, why), make("span", { class: "dim" }, `${request}${client ? ` from ${client}` : ""}`));
  showNewest("refusals", "Refused", model.refusals, view, "No request was refused.");
}

function updateCallers() {
  const callers = Object.entries(model.figures.callers);
  if (!callers.length) return panels.callers?.element.remove(), delete panels.callers;
  const head = make("tr", {}, ...["Caller", "Calls", "Tokens in", "out", "Cost"].map((text) => make("th", { scope: "col" }, text)));
  const rows = callers
    .sort(([, one], [, other]) => other.cost - one.cost || other.calls - one.calls)
    .map(([name, one]) => {
      const cost = dollars(one.cost) + (one.budget ? ` (${dollars(one.budget[0])} of ${dollars(one.budget[1])})` : "");
      return make("tr", {}, make("th", { scope: "row" }, name), ...[count(one.calls), count(one.input), count(one.output), cost].map((text) => make("td", {}, text)));
    });
  panel("callers", "Callers", make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

// The jobs of each pool, by id: their items stay as long as they do.
const jobItems = new Map();

function makeJob(pool, id) {
  const cancel = make("button", { type: "button", "aria-label": `Cancel job ${id.slice(0, 8)}` }, "Cancel");
  cancel.addEventListener("click", () => confirmCancel(pool, id));
  const [picture, text] = [make("img", { alt: "", hidden: true }), make("span", { class: "dim" })];
  const item = make("li", { class: "job" }, make("div", { class: "blank" }, picture), make("div", {}, make("b", {}, id.slice(0, 8)), text), cancel);
  return Object.assign(item, { pool, id, picture, text });
}

function updateJobs() {
  const all = model.figures.jobs;
  for (const [key, item] of jobItems) {
    if (all[item.pool]?.[item.id]) continue;
    if (item.picture.src) URL.revokeObjectURL(item.picture.src);
    jobItems.delete(key);
  }
  for (const key of Object.keys(panels)) {
    if (!key.startsWith("jobs ") || all[key.slice(5)]) continue;
    panels[key].element.remove();
    delete panels[key];
  }
  for (const [pool, jobs] of Object.entries(all)) {
    const rows = Object.entries(jobs).sort(([, one], [, other]) => one.place - other.place);
    const { body } = panel(`jobs ${pool}`, `Jobs of ${pool}`);
    const list = (body.list ??= make("ol", { tabindex: "0", "aria-label": `Jobs of ${pool}` }));
    const items = rows.map(([id, job]) => {
      const key = `${pool}\n${id}`;
      const item = jobItems.get(key) ?? makeJob(pool, id);
      jobItems.set(key, item);
      const lost = job.lost ? `, lost ${job.lost === 1 ? "once" : `${job.lost} times`}` : "";
      write(item.text, `${job.status}${job.server ? ` on ${job.server}` : ""} for ${span(model.figures.now - (job.begun ?? job.created))}${lost}`);
      return item;
    });
    place(list, items);
    place(body, [items.length ? list : (body.nothing ??= make("p", { class: "empty" }, "No job runs or waits."))]);
  }
  fetchPreviews();
}

let isFetching = false;

// Fetches the previews of a few jobs that run, one after the other, and never twice at once.
async function fetchPreviews() {
  if (isFetching || (!token && model.figures.gateway.has_token)) return;
  isFetching = true;
  const running = [...jobItems.values()].filter(({ pool, id }) => model.figures.jobs[pool]?.[id]?.has_preview);
  for (const item of running.slice(0, 12)) {
    const answer = await call("GET", `jobs/${encodeURIComponent(item.id)}/preview?pool=${encodeURIComponent(item.pool)}`).catch(() => null);
    if (!answer?.ok) break;
    const old = item.picture.src;
    item.picture.src = URL.createObjectURL(await answer.blob());
    item.picture.alt = `Preview of job ${item.id.slice(0, 8)}`;
    item.picture.hidden = false;
    if (old) URL.revokeObjectURL(old);
  }
  isFetching = false;
}

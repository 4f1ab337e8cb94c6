// Pools and their members. Only rows that are in view are kept up to date.

const shown = { pools: new Map(), find: "", show: "all", sort: "name", isDown: false };

const COLUMNS = [
  ["state", "State", ""],
  ["name", "Member", ""],
  ["in_flight", "In flight", "number"],
  ["limit", "Limits left", ""],
  ["ok", "Served/s", "number"],
  ["failed", "Failed/s", "number"],
  ["p50", "p50 · p99", "number"],
  ["weight", "Weight", "number"],
];

// The state of a member in a word or a few, with the sign that goes with it.
function judge(member) {
  if (member.status !== "enabled") return ["is-off", member.status === "draining" && member.in_flight ? `draining, ${member.in_flight} left` : member.status];
  if (member.breaker === "half_open") return ["is-warn", "breaker half open"];
  if (!member.serves) return ["is-bad", member.state];
  if (/limit|turned a call away|maximum/.test(member.state ?? "")) return ["is-limit", member.state];
  return ["is-good", /^ready/.test(member.state ?? "") ? "ready" : member.state];
}

const inView = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      target.isInView = isIntersecting;
      if (isIntersecting) updateRow(target);
    }
  },
  { rootMargin: "300px 0px" },
);

function makeRow(pool, name) {
  const cell = (kind, label, ...children) => make("div", { class: `cell ${kind}`, role: "cell", "data-label": label }, ...children);
  const parts = {
    state: make("div", { class: "state" }, make("span", { class: "sign", "aria-hidden": "true" }), make("span", { class: "text" })),
    url: make("span"),
    inFlight: make("span"),
    limit: make("div", { class: "limit" }),
    ok: make("span"),
    failed: make("span"),
    times: make("span"),
    weight: make("span"),
  };
  const act = make("button", { type: "button", "aria-label": `Act on ${name}`, "aria-haspopup": "dialog" }, "Act");
  act.addEventListener("click", () => openMember(pool, name));
  const row = make(
    "div",
    { class: "row", role: "row" },
    cell("", null, parts.state),
    make("div", { class: "cell name", role: "rowheader" }, make("b", {}, name), parts.url),
    cell("number", "in flight", parts.inFlight),
    cell("limit", null, parts.limit),
    cell("number", "served/s", parts.ok),
    cell("number", "failed/s", parts.failed),
    cell("number", "p50 · p99", parts.times),
    cell("number", "weight", parts.weight),
    make("div", { class: "cell act number", role: "cell" }, act),
  );
  Object.assign(row, { pool, name, parts, isInView: false });
  // Once for all, so that a search in the page and a screen reader find it too.
  updateRow(row);
  inView.observe(row);
  return row;
}

function updateRow(row) {
  const member = model.figures.members[row.pool]?.[row.name];
  if (!member) return;
  const { parts } = row;
  const [kind, text] = judge(member);
  setClass(parts.state, `state ${kind}`);
  write(parts.state.lastChild, text + untilText(row.pool, member));
  write(parts.url, member.url);
  write(parts.inFlight, member.max ? `${member.in_flight} of ${member.max}` : String(member.in_flight));
  updateLimits(parts.limit, row.pool, member);
  const { okRate, failedRate } = rates(row.pool, row.name);
  write(parts.ok, rate(okRate));
  write(parts.failed, rate(failedRate));
  write(parts.times, member.p50 == null ? "–" : `${milliseconds(member.p50)} · ${milliseconds(member.p99)}`);
  write(parts.weight, String(member.weight));
}

function untilText(pool, member) {
  const left = member.until == null ? 0 : timeTo(pool, member.until);
  return left > 0 ? `, for ${span(left)} more` : "";
}

function updateLimits(place, pool, member) {
  const units = ["requests", "tokens"].filter((unit) => member[unit]);
  while (place.childElementCount > units.length) place.lastElementChild.remove();
  while (place.childElementCount < units.length) {
    place.append(make("div", {}, make("span"), make("div", { class: "meter", "aria-hidden": "true" }, make("i"))));
  }
  place.dataset.none = units.length ? "" : "none";
  units.forEach((unit, index) => {
    const [left, most] = member[unit];
    const [text, meter] = place.children[index].children;
    write(text, `${count(left)} of ${count(most)} ${unit}`);
    setClass(meter, left / most < 0.2 ? "meter is-low" : "meter");
    meter.firstChild.style.transform = `scaleX(${most ? left / most : 0})`;
  });
}

function makePool(name) {
  const figure = (label) => {
    const value = make("b");
    return { value, element: make("div", { class: "figure" }, value, make("span", {}, label)) };
  };
  const pool = { title: make("h2", {}, name), kind: make("span", { class: "dim" }), chart: makeChart(), why: make("p", { class: "why" }) };
  const labels = { serving: "members serve", rate: "requests/s", waiting: "waiting", wait: "expected wait" };
  for (const [key, label] of Object.entries(labels)) pool[key] = figure(label);
  pool.flows = make("ul", { class: "flows", "aria-label": `Callers of ${name} in line` });
  pool.rows = make("div", { role: "rowgroup" });
  pool.empty = make("p", { class: "more", hidden: true });
  const head = make("div", { class: "row head", role: "row" });
  for (const [key, text, kind] of COLUMNS) {
    const button = make("button", { type: "button" }, text);
    button.addEventListener("click", () => sortBy(key));
    head.append(make("div", { class: `cell ${kind}`, role: "columnheader", "data-key": key }, button));
  }
  head.append(make("div", { class: "cell number", role: "columnheader" }, make("span", { class: "dim" }, "Act")));
  pool.head = head;
  const figures = [pool.serving, pool.rate, pool.waiting, pool.wait].map((one) => one.element);
  pool.element = make(
    "section",
    { class: "pool", "aria-label": `Pool ${name}` },
    make("header", {}, make("div", {}, pool.title, pool.kind), ...figures, pool.chart, pool.why),
    pool.flows,
    make("div", { role: "table", "aria-label": `Members of ${name}` }, make("div", { role: "rowgroup" }, head), pool.rows),
    pool.empty,
  );
  pool.byName = new Map();
  return pool;
}

// Adds and takes away pools and rows, a few hundred rows at a time.
function arrange() {
  const { pools, members } = model.figures;
  for (const [name, pool] of shown.pools) {
    if (!pools[name]) {
      for (const row of pool.byName.values()) inView.unobserve(row);
      pool.element.remove();
      shown.pools.delete(name);
    }
  }
  for (const name of Object.keys(pools)) {
    if (!shown.pools.has(name)) {
      const pool = makePool(name);
      shown.pools.set(name, pool);
      byId("pools").append(pool.element);
    }
    arrangeRows(name, Object.keys(members[name] ?? {}));
  }
}

const ROWS_AT_ONCE = 100;

function arrangeRows(name, names) {
  const pool = shown.pools.get(name);
  if (!pool) return;
  const known = new Set(names);
  for (const [member, row] of pool.byName) {
    if (known.has(member)) continue;
    inView.unobserve(row);
    row.remove();
    pool.byName.delete(member);
  }
  const missing = names.filter((member) => !pool.byName.has(member)).slice(0, ROWS_AT_ONCE);
  if (!missing.length) return;
  for (const member of missing) pool.byName.set(member, makeRow(name, member));
  order(name);
  requestAnimationFrame(() => arrangeRows(name, Object.keys(model.figures.members[name] ?? {})));
}

function sortBy(key) {
  shown.isDown = shown.sort === key ? !shown.isDown : key !== "name" && key !== "state";
  shown.sort = key;
  for (const name of shown.pools.keys()) order(name);
}

const RANKS = ["is-bad", "is-warn", "is-off", "is-limit", "is-good"];

function sortKey(pool, name, member) {
  switch (shown.sort) {
    case "name": return name;
    case "state": return RANKS.indexOf(judge(member)[0]);
    case "limit": return member.requests ? member.requests[0] / member.requests[1] : 2;
    case "ok": return rates(pool, name).okRate;
    case "failed": return rates(pool, name).failedRate;
    default: return member[shown.sort] ?? 0;
  }
}

// Puts the rows of a pool in the order and choice that are asked for.
function order(name) {
  const pool = shown.pools.get(name);
  const members = model.figures.members[name] ?? {};
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  const keyed = [...pool.byName].filter(([member]) => members[member]).map(([member, row]) => [sortKey(name, member, members[member]), member, row]);
  keyed.sort(([one, first], [other, second]) => {
    const by = typeof one === "string" ? compare(one, other) : one - other;
    return (shown.isDown ? -by : by) || compare(first, second);
  });
  const chosen = keyed.filter(([, member]) => isChosen(member, members[member])).map(([, , row]) => row);
  place(pool.rows, chosen);
  pool.chosen = chosen.length;
  pool.empty.hidden = chosen.length > 0;
  write(pool.empty, pool.byName.size ? "No member matches." : "This pool has no members.");
  for (const cell of pool.head.children) {
    const isSorted = cell.dataset.key === shown.sort;
    cell.classList.toggle("is-sorted", isSorted);
    if (isSorted) cell.setAttribute("aria-sort", shown.isDown ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  tellFound();
}

// Makes these the children of an element, and moves none that is in its place, so that the focus stays.
function place(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
}

function isChosen(name, member) {
  const [kind, state] = judge(member);
  const text = `${name} ${member.url} ${state}`.toLowerCase();
  const is = { all: true, trouble: kind !== "is-good" && kind !== "is-limit", limit: kind === "is-limit", busy: member.in_flight > 0 };
  return is[shown.show] && shown.find.split(/\s+/).every((word) => text.includes(word));
}

function tellFound() {
  let [chosen, all] = [0, 0];
  for (const pool of shown.pools.values()) {
    chosen += pool.chosen ?? 0;
    all += pool.byName.size;
  }
  write(byId("found"), chosen === all ? `${count(all)} members` : `${count(chosen)} of ${count(all)} members`);
}

function updatePool(name) {
  const pool = shown.pools.get(name);
  const figures = model.figures.pools[name];
  const members = Object.values(model.figures.members[name] ?? {});
  const serving = members.filter((member) => member.serves).length;
  write(pool.kind, `${figures.kind} · ${figures.policy}`);
  write(pool.serving.value, `${serving} of ${members.length}`);
  const { okRate, failedRate } = rates(name);
  write(pool.rate.value, rate(okRate + failedRate) + (failedRate > 0 ? ` (${rate(failedRate)} failed)` : ""));
  write(pool.waiting.value, count(figures.waiting));
  write(pool.wait.value, figures.wait == null ? "–" : figures.wait > 0 ? span(figures.wait) : "none");
  const left = figures.until == null ? 0 : timeTo(name, figures.until);
  write(pool.why, figures.why ? `A request would wait: ${figures.why}${left > 0 ? `; the first opens in ${span(left)}` : ""}.` : "");
  const flows = Object.entries(figures.flows ?? {});
  const texts = flows.map(([caller, flow]) => `${caller}: ${flow.held} in flight, ${flow.waiting} wait${flow.wait == null ? "" : ` for ${span(flow.wait)}`}`);
  if (texts.join() !== pool.flowTexts) {
    pool.flowTexts = texts.join();
    pool.flows.replaceChildren(...texts.map((text) => make("li", {}, text)));
  }
}

function updateCharts() {
  for (const [name, pool] of shown.pools) {
    const samples = joined([name]);
    const perSecond = (value) => `${rate(value)} requests a second`;
    drawChart(pool.chart, `Requests of ${name}`, perSecond, column(samples, "all"), column(samples, "failed"));
  }
}

// Brings up to date what is in view.
function updateRows() {
  for (const [name, pool] of shown.pools) {
    if (model.figures.pools[name]) updatePool(name);
    for (const row of pool.rows.children) if (row.isInView) updateRow(row);
  }
}

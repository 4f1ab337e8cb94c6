// Lists beside the members: changes, refusals and callers.

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

function makeAlert(key, alert, since) {
  const text = make("span", { class: "dim" });
  const item = make("li", { class: "is-bad" }, make("time", {}, clock(since)), make("span", { class: "sign", "aria-hidden": "true" }), make("b", {}, alert), text);
  return Object.assign(item, { key, text });
}

// Shows what alerts tell of now, above all other lists; nothing where the settings have no alerts.
function updateAlerts() {
  const active = model.figures.alerts;
  if (!active) return panels.alerts?.element.remove(), delete panels.alerts;
  const isNew = !panels.alerts;
  const { element, note, body } = panel("alerts", "Alerts");
  if (isNew) byId("panels").prepend(element);
  const list = (body.list ??= make("ol", { tabindex: "0", "aria-label": "Alerts" }));
  const known = new Map([...list.children].map((item) => [item.key, item]));
  const items = active.slice(0, 60).map(({ alert, pool, backend, caller, since, text }) => {
    const key = [alert, pool, backend, caller, since].join("\n");
    const item = known.get(key) ?? makeAlert(key, alert, since);
    write(item.text, text);
    return item;
  });
  place(list, items);
  place(body, [items.length ? list : (body.nothing ??= make("p", { class: "empty" }, "No alert."))]);
  write(note, active.length ? String(active.length) : "");
}

function updateChanges() {
  const view = ({ at, pool, backend, change, weight, for_ms: time, alert, text }) => {
    if (alert) {
      const word = change === "alert" ? "alert" : "alert is over";
      return make("li", {}, make("time", {}, clock(at)), make("b", {}, alert), ` ${word}`, make("span", { class: "dim" }, text));
    }
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

// The requests that have waited for a second, by id: their items stay as long as they wait.
const waitingItems = new Map();

function updateWaiting() {
  const all = model.figures.waiting;
  for (const id of waitingItems.keys()) if (!all[id]) waitingItems.delete(id);
  if (!waitingItems.size && !Object.keys(all).length) return panels.waiting?.element.remove(), delete panels.waiting;
  const { body } = panel("waiting", "Waiting");
  const list = (body.list ??= make("ol", { tabindex: "0", "aria-label": "Waiting" }));
  const items = Object.entries(all).map(([id, one]) => {
    if (!waitingItems.has(id)) {
      const cancel = button("Cancel", () => confirmCancelWaiting(id, one));
      cancel.setAttribute("aria-label", `Cancel request ${id}`);
      const time = make("span", { class: "dim" });
      const from = one.caller ?? one.client;
      const text = make("div", {}, make("b", {}, one.request), make("span", { class: "dim" }, `${one.pool}${from ? `, for ${from}` : ""}`), time);
      waitingItems.set(id, Object.assign(make("li", { class: "act-row" }, text, cancel), { time }));
    }
    const item = waitingItems.get(id);
    write(item.time, `for ${span(model.figures.now - one.since)}`);
    return item;
  });
  place(list, items);
  place(body, [list]);
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

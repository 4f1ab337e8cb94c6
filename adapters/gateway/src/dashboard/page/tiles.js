// The gateway as a whole: its figures in tiles, and whether it serves.

const TILES = {
  rate: { label: "Requests", rows: (samples) => [column(samples, "all")], unitOf: (value) => `${rate(value)} a second` },
  failed: { label: "Failed", rows: (samples) => [column(samples, "failed")], unitOf: (value) => `${rate(value)} a second` },
  p50: { label: "Median time", rows: (samples) => [column(samples, "p50")], unitOf: milliseconds },
  p99: { label: "99th percentile", rows: (samples) => [column(samples, "p99")], unitOf: milliseconds },
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
    tile.title = make("h2", {}, tile.label);
    byId("tiles").append(make("div", { class: "tile" }, tile.title, make("div", { class: "value" }, tile.value, tile.unit), tile.chart, tile.note));
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
  // Times of several pools can't be joined: that of the slowest is shown.
  const which = names.length > 1 ? ", slowest pool" : "";
  for (const key of ["p50", "p99"]) write(TILES[key].title, TILES[key].label + which);
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

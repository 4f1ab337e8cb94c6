// Follows the gateway, and shows what it tells.

let following = 0;

function setLive(kind, text) {
  setClass(byId("live"), `live ${kind}`);
  write(byId("live").lastChild, text);
  document.body.classList.toggle("stale", kind !== "is-good");
}

function showAll() {
  arrange();
  updateHealth();
  updateTiles();
  updateTileCharts();
  updateCharts();
  updateRows();
  updateChanges();
  updateRefusals();
  updateCallers();
  updateJobs();
}

function showTick(told, patch) {
  if (patch.members || patch.pools) arrange();
  // A choice by state or use follows the members, but not while the keyboard is among them.
  const isFree = !byId("pools").contains(document.activeElement);
  if (patch.members && isFree && (shown.show !== "all" || shown.sort === "state")) for (const name of shown.pools.keys()) order(name);
  updateHealth();
  updateTiles();
  updateRows();
  if (told.sample) {
    updateTileCharts();
    updateCharts();
  }
  if (told.changes.length) updateChanges();
  if (told.refusals.length) updateRefusals();
  if (patch.callers) updateCallers();
  if (Object.keys(model.figures.jobs).length) updateJobs();
}

async function follow(number) {
  const answer = await call("GET", "events?view=figures");
  if (answer.status === 401 || answer.status === 403) {
    const { error } = await answer.json().catch(() => ({}));
    setLive("is-bad", "signed out");
    askForToken(error?.message ?? "This page needs the admin token.");
    return false;
  }
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  for await (const { event, data } of events(answer)) {
    if (number !== following) return false;
    setLive("is-good", "live");
    if (event === "snapshot") {
      takeSnapshot(data);
      showAll();
    } else if (event === "tick") {
      const patch = takeTick(data);
      requestAnimationFrame(() => showTick(data, patch));
    }
  }
  return true;
}

async function begin() {
  const number = ++following;
  for (let pause = 1000; number === following; pause = Math.min(pause * 2, 10_000)) {
    const began = performance.now();
    try {
      if (!(await follow(number))) return;
    } catch {
      // The gateway is away, or starts: another try follows.
    }
    if (performance.now() - began > 10_000) pause = 1000;
    setLive("is-bad", `no connection, next try in ${pause / 1000} s`);
    await new Promise((done) => setTimeout(done, pause));
  }
}

byId("tools").addEventListener("submit", (event) => event.preventDefault());
byId("find").addEventListener("input", ({ target }) => {
  shown.find = target.value.trim().toLowerCase();
  for (const name of shown.pools.keys()) order(name);
});
byId("show").addEventListener("change", ({ target }) => {
  shown.show = target.value;
  for (const name of shown.pools.keys()) order(name);
});
// Times that count down, between two ticks of the gateway.
setInterval(() => {
  if (!model.figures || document.hidden) return;
  for (const [name, pool] of shown.pools) {
    if (model.figures.pools[name]?.until != null) updatePool(name);
    for (const row of pool.rows.children) {
      if (row.isInView && model.figures.members[name]?.[row.name]?.until != null) updateRow(row);
    }
  }
}, 500);
makeTiles();
begin();

// Follows the gateway, and shows what it tells.

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

// What has changed since it was last shown; `null` while nothing has.
let unshown = null;

// Shows what has changed with the next frame. A page that is hidden has none, and shows all when it is seen again.
function show(told, patch) {
  const isFirst = unshown === null;
  unshown ??= { arrange: false, members: false, sample: false, changes: false, refusals: false, callers: false };
  unshown.arrange ||= Boolean(patch.members || patch.pools);
  unshown.members ||= Boolean(patch.members);
  unshown.sample ||= Boolean(told.sample);
  unshown.changes ||= told.changes.length > 0;
  unshown.refusals ||= told.refusals.length > 0;
  unshown.callers ||= Boolean(patch.callers);
  if (isFirst) requestAnimationFrame(showUnshown);
}

function showUnshown() {
  const now = unshown;
  unshown = null;
  if (now.arrange) arrange();
  // A choice by state or use follows the members, but not while the keyboard is among them.
  const isFree = !byId("pools").contains(document.activeElement) && !sheet.open;
  if (now.members && isFree && (shown.show !== "all" || shown.sort === "state")) for (const name of shown.pools.keys()) order(name);
  updateHealth();
  updateTiles();
  updateRows();
  if (now.sample) {
    updateTileCharts();
    updateCharts();
  }
  if (now.changes) updateChanges();
  if (now.refusals) updateRefusals();
  if (now.callers) updateCallers();
  updateJobs();
}

// The gateway tells something each second; after a silence of this many milliseconds it is asked anew.
const SILENCE = 6000;
let stop = new AbortController();

async function follow(signal) {
  let silence = setTimeout(() => stop.abort(), SILENCE);
  try {
    const answer = await call("GET", "events?view=figures", undefined, signal);
    if (!answer.ok) {
      const { error } = await answer.json().catch(() => ({}));
      const text = error?.message ?? `The gateway answered with status ${answer.status}.`;
      if (answer.status !== 401 && answer.status !== 403) throw new Error(text);
      setLive("is-bad", "signed out");
      askForToken(text);
      return false;
    }
    for await (const { event, data } of events(answer)) {
      clearTimeout(silence);
      silence = setTimeout(() => stop.abort(), SILENCE);
      setLive("is-good", "live");
      if (event === "snapshot") {
        takeSnapshot(data);
        showAll();
      } else if (event === "tick") show(data, takeTick(data));
    }
    return true;
  } finally {
    clearTimeout(silence);
  }
}

let following = 0;

async function begin() {
  const number = ++following;
  for (let pause = 1000; ; pause = Math.min(pause * 2, 10_000)) {
    stop.abort();
    stop = new AbortController();
    const began = performance.now();
    let why = "no connection";
    try {
      if (!(await follow(stop.signal))) return;
    } catch (error) {
      // The gateway is away, starts, or has no place left: another try follows.
      if (/streams/.test(error.message)) why = error.message;
    }
    if (number !== following) return;
    if (performance.now() - began > 10_000) pause = 1000;
    setLive("is-bad", `${why}, next try in ${pause / 1000} s`);
    await new Promise((done) => setTimeout(done, pause));
    if (number !== following) return;
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

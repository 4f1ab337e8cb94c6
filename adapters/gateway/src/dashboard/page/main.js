// Shows what the gateway tells, and what its reader asks for.

function showAll() {
  arrange();
  updateHealth();
  updateTiles();
  updateTileCharts();
  updateCharts();
  updateRows();
  updateAlerts();
  updateChanges();
  updateRefusals();
  updateCallers();
  updateWaiting();
  updateJobs();
}

// What has changed since it was last shown; `null` while nothing has.
let unshown = null;

// Shows what has changed with the next frame. A page that is hidden has none, and shows all when it is seen again.
function show(told, patch) {
  const isFirst = unshown === null;
  unshown ??= { arrange: false, members: false, sample: false, changes: false, refusals: false, callers: false, alerts: false };
  unshown.arrange ||= Boolean(patch.members || patch.pools);
  unshown.members ||= Boolean(patch.members);
  unshown.sample ||= Boolean(told.sample);
  unshown.changes ||= told.changes.length > 0;
  unshown.refusals ||= told.refusals.length > 0;
  unshown.callers ||= Boolean(patch.callers);
  unshown.alerts ||= patch.alerts !== undefined;
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
  if (now.alerts) updateAlerts();
  if (now.changes) updateChanges();
  if (now.refusals) updateRefusals();
  if (now.callers) updateCallers();
  updateWaiting();
  updateJobs();
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

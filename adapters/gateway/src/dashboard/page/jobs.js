// Jobs for ComfyUI servers, with their previews.

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
      write(item.text, `${job.status.replace("_", " ")}${job.server ? ` on ${job.server}` : ""} for ${span(model.figures.now - (job.begun ?? job.created))}${lost}`);
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

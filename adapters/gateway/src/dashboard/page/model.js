// What the gateway has told: all figures at first, then what has changed of them.

const model = { figures: null, history: {}, changes: [], refusals: [], rates: new Map(), at: 0 };
const KEPT = 200;
const SAMPLES = 180;
// The share of the newest difference in a rate, which hides the beat of single requests.
const NEWEST = 0.4;

// Applies a JSON merge patch (RFC 7396).
function merge(target, patch) {
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete target[key];
    else if (typeof value === "object" && !Array.isArray(value)) {
      if (typeof target[key] !== "object" || Array.isArray(target[key])) target[key] = {};
      merge(target[key], value);
    } else target[key] = value;
  }
}

function takeSnapshot(told) {
  model.figures = told.figures;
  model.history = told.history;
  model.changes = told.changes;
  model.refusals = told.refusals;
  model.at = performance.now();
  model.rates = new Map();
  for (const [key, counts] of counted()) model.rates.set(key, { ...counts, okRate: 0, failedRate: 0, seen: told.figures.now });
}

// Takes what has changed, and returns it.
function takeTick(told) {
  const patch = told.patch ?? {};
  merge(model.figures, patch);
  model.at = performance.now();
  for (const name of ["changes", "refusals"]) {
    const last = model[name].at(-1)?.n ?? -1;
    model[name].push(...told[name].filter((entry) => entry.n > last));
    model[name].splice(0, model[name].length - KEPT);
  }
  for (const [pool, sample] of Object.entries(told.sample ?? {})) {
    const samples = (model.history[pool] ??= []);
    samples.push(sample);
    samples.splice(0, samples.length - SAMPLES);
  }
  takeRates();
  return patch;
}

// The counts of all pools and members, by key.
function* counted() {
  for (const [name, pool] of Object.entries(model.figures.pools)) yield [name, pool];
  for (const [pool, members] of Object.entries(model.figures.members)) {
    for (const [name, member] of Object.entries(members)) yield [pool + "\n" + name, member];
  }
}

function takeRates() {
  const now = model.figures.now;
  for (const [key, { ok = 0, failed = 0, throttled = 0 }] of counted()) {
    const known = model.rates.get(key);
    if (!known) {
      model.rates.set(key, { ok, failed, throttled, okRate: 0, failedRate: 0, seen: now });
      continue;
    }
    const seconds = Math.max(0.2, (now - known.seen) / 1000);
    const smooth = (before, more) => {
      const next = before + (Math.max(0, more) / seconds - before) * NEWEST;
      return next < 0.01 ? 0 : next;
    };
    known.okRate = smooth(known.okRate, ok - (known.ok ?? 0));
    known.failedRate = smooth(known.failedRate, failed + throttled - (known.failed ?? 0) - (known.throttled ?? 0));
    Object.assign(known, { ok, failed, throttled, seen: now });
  }
}

const rates = (pool, member) => model.rates.get(member == null ? pool : pool + "\n" + member) ?? { okRate: 0, failedRate: 0 };

// The time from now to a tick of a pool's clock, in milliseconds.
function timeTo(pool, tick) {
  return tick - (model.figures.pools[pool]?.now ?? 0) - (performance.now() - model.at);
}

// Reads server-sent events from an answer.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const lines = text.slice(0, end).split("\n");
      const of = (name) => lines.find((line) => line.startsWith(name + ": "))?.slice(name.length + 2);
      if (of("event")) yield { event: of("event"), data: JSON.parse(of("data")) };
    }
  }
}

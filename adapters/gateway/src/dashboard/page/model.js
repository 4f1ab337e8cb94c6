// What the gateway has told: all figures at first, then what has changed of them.

const model = { figures: null, history: {}, changes: [], refusals: [], rates: new Map(), at: 0 };
const KEPT = 200;
const SAMPLES = 180;
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
  takeRates();
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

// The counts of all pools and members, by key, each with the time of its pool's clock.
function* counted() {
  for (const [name, pool] of Object.entries(model.figures.pools)) {
    yield [name, pool, pool.now];
    for (const [member, counts] of Object.entries(model.figures.members[name] ?? {})) yield [`${name}\n${member}`, counts, pool.now];
  }
}

function takeRates() {
  const seen = new Map();
  for (const [key, { ok = 0, failed = 0, throttled = 0 }, now] of counted()) {
    const counts = { ok, failed: failed + throttled, now };
    const known = model.rates.get(key) ?? { ...counts, okRate: 0, failedRate: 0 };
    const seconds = (now - known.now) / 1000;
    // Differences that come soon after each other are taken together.
    if (seconds >= 0.5) {
      const smooth = (before, more) => {
        const next = before + (Math.max(0, more) / seconds - before) * share(seconds);
        return next < 0.01 ? 0 : next;
      };
      known.okRate = smooth(known.okRate, counts.ok - known.ok);
      known.failedRate = smooth(known.failedRate, counts.failed - known.failed);
      Object.assign(known, counts);
    }
    seen.set(key, known);
  }
  model.rates = seen;
}

const rates = (pool, member) => model.rates.get(member == null ? pool : pool + "\n" + member) ?? { okRate: 0, failedRate: 0 };

// The time from now to a tick of a pool's clock, in milliseconds.
function timeTo(pool, tick) {
  return tick - (model.figures.pools[pool]?.now ?? 0) - (performance.now() - model.at);
}

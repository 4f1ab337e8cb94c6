// Small charts of the last quarter of an hour.

const SVG = "http://www.w3.org/2000/svg";
const MINUTES_15 = 900_000;

function makeChart() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "chart");
  svg.setAttribute("viewBox", "0 0 100 30");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  for (const kind of ["area", "first", "second"]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", kind);
    svg.append(path);
  }
  return svg;
}

// Draws one or two rows of [time, value]; the second is dashed.
function drawChart(svg, label, unit, all, allSecond = []) {
  const end = Math.max(all.at(-1)?.[0] ?? 0, 1);
  const isShown = ([at]) => at >= end - MINUTES_15 && at <= end;
  const [first, second] = [all.filter(isShown), allSecond.filter(isShown)];
  const most = Math.max(...first.map(([, value]) => value), ...second.map(([, value]) => value), 1e-9);
  const line = (rows) =>
    rows
      .map(([at, value], index) => {
        const x = 100 - ((end - at) / MINUTES_15) * 100;
        return (index ? "L" : "M") + x.toFixed(2) + " " + (29 - (value / most) * 27).toFixed(2);
      })
      .join("");
  const [area, path, dashed] = svg.children;
  const drawn = line(first);
  path.setAttribute("d", drawn);
  const from = first.length ? (100 - ((end - first[0][0]) / MINUTES_15) * 100).toFixed(2) : "0";
  area.setAttribute("d", drawn && drawn + `L100 30L${from} 30Z`);
  dashed.setAttribute("d", second.some(([, value]) => value > 0) ? line(second) : "");
  const told = first.length ? `at most ${unit(most)}` : "nothing yet";
  svg.setAttribute("aria-label", `${label} in the last 15 minutes: ${told}`);
}

// The usual time between two samples, in milliseconds.
const PAUSE = 5000;

// Joins the samples of pools: sums of rates and of waiting requests, the worst of times.
function joined(pools) {
  const byTime = new Map();
  for (const pool of pools) {
    const samples = model.history[pool] ?? [];
    samples.forEach(([at, ok, failed, p50, p99, waiting], index) => {
      const since = at - (samples[index - 1]?.[0] ?? at - PAUSE);
      const seconds = since > 0 && since < 60_000 ? since / 1000 : PAUSE / 1000;
      const sum = byTime.get(at) ?? { at, all: 0, failed: 0, p50: 0, p99: 0, waiting: 0 };
      byTime.set(at, {
        at, all: sum.all + (ok + failed) / seconds, failed: sum.failed + failed / seconds,
        p50: Math.max(sum.p50, p50), p99: Math.max(sum.p99, p99), waiting: sum.waiting + waiting,
      });
    });
  }
  return [...byTime.values()].sort((one, other) => one.at - other.at);
}

const column = (samples, name) => samples.map((sample) => [sample.at, sample[name]]);

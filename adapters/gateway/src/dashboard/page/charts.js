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
function drawChart(svg, label, unit, first, second = []) {
  const end = Math.max(first.at(-1)?.[0] ?? 0, 1);
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

// The seconds between two samples.
const PAUSE = 5;

// Joins the samples of pools: sums of counts and of waiting requests, the worst of times.
function joined(pools) {
  const byTime = new Map();
  for (const pool of pools) {
    for (const [at, ok, failed, p50, p99, waiting] of model.history[pool] ?? []) {
      const sum = byTime.get(at) ?? [at, 0, 0, 0, 0, 0];
      byTime.set(at, [at, sum[1] + ok, sum[2] + failed, Math.max(sum[3], p50), Math.max(sum[4], p99), sum[5] + waiting]);
    }
  }
  return [...byTime.values()].sort((one, other) => one[0] - other[0]);
}

const column = (samples, number, factor = 1) => samples.map((sample) => [sample[0], sample[number] * factor]);

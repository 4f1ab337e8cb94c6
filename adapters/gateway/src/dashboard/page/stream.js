// Follows the gateway: reads what it tells, and asks anew after a silence or an end.

function setLive(kind, text) {
  setClass(byId("live"), `live ${kind}`);
  write(byId("live").lastChild, text);
  document.body.classList.toggle("stale", kind !== "is-good");
}

// Reads server-sent events from an answer, to its end or until they are no longer wanted.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
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
  } finally {
    reader.cancel().catch(() => {});
  }
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

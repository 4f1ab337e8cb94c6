// What an operator does: each act is confirmed, and the gateway tells of it in its log and its changes.

// The token is kept in memory alone: other pages of this address could read what is stored.
let token = "";

function call(method, path, body, signal) {
  const headers = {};
  if (token) headers.authorization = `Bearer ${token}`;
  if (body) headers["content-type"] = "application/json";
  return fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", signal });
}

const sheet = byId("sheet");

function openSheet(title, ...children) {
  write(byId("sheet-title"), title);
  byId("sheet-body").replaceChildren(...children);
  if (!sheet.open) sheet.showModal();
  // The first button of a grave act is the way back, for a key that is held too long.
  const first = byId("sheet-body").querySelector("input, button.grave ~ button, button");
  (byId("sheet-body").querySelector("button.grave ~ button") ?? first)?.focus();
}

// A key that is held presses a button once.
sheet.addEventListener("keydown", (event) => event.repeat && event.key === "Enter" && event.preventDefault());

byId("sheet-close").addEventListener("click", () => sheet.close());
byId("sheet-form").addEventListener("submit", (event) => event.preventDefault());

function button(text, act, kind = "") {
  const made = make("button", { type: "button", class: kind }, text);
  made.addEventListener("click", act);
  return made;
}

function onEnter(input, act) {
  input.addEventListener("keydown", (event) => event.key === "Enter" && !event.repeat && act());
}

function askForToken(why) {
  const input = make("input", { type: "password", autocomplete: "off", class: "wide" });
  const error = make("p", { class: "error", role: "alert" });
  const enter = async () => {
    const old = token;
    token = input.value.trim();
    // What is shown stays until the token has proved right.
    const answer = await call("GET", "health").catch(() => null);
    if (!answer?.ok) {
      const told = await answer?.json().catch(() => null);
      write(error, told?.error?.message ?? "The gateway gave no answer.");
      token = old;
      return;
    }
    sheet.close();
    begin();
  };
  onEnter(input, enter);
  openSheet(
    "Sign in",
    make("p", {}, why),
    make("div", { class: "acts" }, make("label", {}, "Admin token", input), button("Sign in", enter, "first")),
    error,
    make("p", { class: "dim" }, "It is kept until this page is closed or loaded again."),
  );
}

byId("sign-in").addEventListener("click", () => askForToken("Changes need the admin token, which the file of token_file under [admin] has."));

function toast(text) {
  const told = make("p", {}, text);
  byId("toast").append(told);
  setTimeout(() => told.remove(), 6000);
}

// Asks whether an act is meant, makes it, and says what came of it.
function confirmAct({ title, what, verb, isGrave, done, run, back }) {
  const error = make("p", { class: "error", role: "alert" });
  const act = button(verb, async () => {
    act.disabled = true;
    const answer = await run().catch((failure) => ({ failure }));
    act.disabled = false;
    if (answer.ok) {
      sheet.close();
      toast(done);
      return;
    }
    const told = answer.failure ? { message: String(answer.failure) } : ((await answer.json().catch(() => ({}))).error ?? {});
    const wantsToken = answer.status === 401 || (answer.status === 403 && model.figures.gateway.has_token);
    if (wantsToken) return askForToken(told.message ?? "Changes need the admin token.");
    write(error, told.message ?? `The gateway answered with status ${answer.status}.`);
  }, isGrave ? "grave" : "first");
  openSheet(title, make("p", {}, what), error, make("div", { class: "acts" }, act, button("Back", back ?? (() => sheet.close()))));
}

function confirmCancel(pool, id) {
  confirmAct({
    title: `Cancel job ${id.slice(0, 8)}?`, what: "It is interrupted if it runs, and its caller is told that it was cancelled.", verb: "Cancel the job", isGrave: true,
    done: `Job ${id.slice(0, 8)} is cancelled.`, run: () => call("POST", `jobs/${encodeURIComponent(id)}/cancel?pool=${encodeURIComponent(pool)}`),
  });
}

function confirmCancelWaiting(id, { request, pool }) {
  confirmAct({
    title: `Cancel request ${id}?`, what: `${request}, which waits for ${pool}, is refused, and its caller is told that it was cancelled.`, verb: "Cancel the request", isGrave: true,
    done: `Request ${id} is cancelled.`, run: () => call("POST", `waiting/${id}/cancel`),
  });
}

function openMember(pool, name) {
  const member = model.figures.members[pool]?.[name];
  if (!member) return;
  const back = () => openMember(pool, name);
  const path = (act) => `backends/${encodeURIComponent(name)}/${act}?pool=${encodeURIComponent(pool)}`;
  const act = (verb, call_, title, what, done, isGrave = false, body = undefined) =>
    button(verb, () => confirmAct({ title, what, verb, isGrave, done, back, run: () => call("POST", path(call_), body?.()) }));
  const facts = make("dl");
  const fact = (term, text) => text != null && text !== "" && facts.append(make("dt", {}, term), make("dd", {}, text));
  fact("State", judge(member)[1] + untilText(pool, member));
  fact("Last failure", member.failure);
  fact("Address", member.url);
  fact("Pool", `${pool}, tier ${member.tier}`);
  fact("Served", `${count(member.ok ?? 0)}, ${count(member.failed ?? 0)} failed, ${count(member.throttled ?? 0)} turned away`);
  const acts = make("div", { class: "acts" });
  if (member.status === "enabled") {
    acts.append(
      act("Disable", "disable", `Disable ${name}?`, "It is sent no more requests. Those that it has are answered.", `${name} is disabled.`, true),
      act("Drain", "drain", `Drain ${name}?`, "It is sent no more requests, and a change tells when its last one has ended.", `${name} drains.`),
    );
  } else acts.append(act("Enable", "enable", `Enable ${name}?`, "It is sent requests again.", `${name} is enabled.`));
  if (member.breaker === "open") acts.append(act("Close the breaker", "breaker", `Close the breaker of ${name}?`, "It is sent requests again at once.", `The breaker of ${name} is closed.`, false, () => ({ state: "closed" })));
  else if (member.breaker) acts.append(act("Open the breaker", "breaker", `Open the breaker of ${name}?`, "It is sent no requests for 30 s.", `The breaker of ${name} is open.`, true, () => ({ state: "open", for: "30s" })));
  const weight = make("input", { type: "number", min: "0", max: "65535", required: true, value: String(member.weight) });
  const limit = make("input", { type: "text", placeholder: "3/min, 100000 tokens/min", class: "wide", value: member.limits ?? "" });
  const setWeight = () => weight.reportValidity() && confirmAct({ title: `Weight ${weight.value} for ${name}?`, what: "It gets this share of requests from now on.", verb: "Set the weight", done: `${name} has weight ${weight.value}.`, back, run: () => call("POST", path("weight"), { weight: Number(weight.value) }) });
  const setLimits = () => confirmAct({ title: limit.value ? `Limits ${limit.value} for ${name}?` : `No limits for ${name}?`, what: "What was used of its limits stays used.", verb: "Set the limits", isGrave: !limit.value, done: `The limits of ${name} were changed.`, back, run: () => call("POST", path("limits"), { limit: limit.value }) });
  onEnter(weight, setWeight);
  onEnter(limit, setLimits);
  openSheet(
    name, facts, acts,
    make("div", { class: "acts" }, make("label", {}, "Weight", weight), button("Set the weight", setWeight)),
    make("div", { class: "acts" }, make("label", {}, "Limits", limit), button("Set the limits", setLimits)),
  );
}

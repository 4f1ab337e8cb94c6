// Drives the dashboard in Chromium, as `main.rs` tells it line by line, and answers each line with JSON.

import { createRequire } from "node:module";
import { readFileSync, mkdirSync } from "node:fs";
import { createInterface } from "node:readline";

const require = createRequire(process.env.LEASEHOLD_NODE_MODULES + "/from-here.js");
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [url, folder] = process.argv.slice(2);
mkdirSync(folder, { recursive: true });

const browser = await chromium.launch({
  executablePath: process.env.LEASEHOLD_CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const errors = [];
const open = async (options) => {
  const page = await browser.newPage(options);
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => {
    // That the page was asked to sign in is told in the console too.
    if (message.type() === "error" && !message.text().includes("401")) errors.push(message.text());
  });
  await page.goto(url);
  await page.waitForSelector(".live.is-good");
  return page;
};
const page = await open({ viewport: { width: 1280, height: 800 }, colorScheme: "dark" });
const row = (name) => page.locator(".row", { has: page.getByRole("rowheader").getByText(name, { exact: true }) });
const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent);
const tabTo = async (wanted) => {
  for (let presses = 0; presses < 120; presses++) {
    if ((await focused()) === wanted) return;
    await page.keyboard.press("Tab");
  }
  throw new Error(`Tab never leads to ${wanted}`);
};

const steps = {
  async state(name) {
    return await row(name).locator(".state").innerText();
  },
  // Waits until a member is shown as bad.
  async shows_bad(name) {
    await row(name).locator(".state.is-bad, .state.is-warn").waitFor({ timeout: 15_000 });
  },
  async tile(number) {
    return await page.locator(".tile .value").nth(Number(number)).innerText();
  },
  async panel(name) {
    return await page.getByRole("region", { name }).innerText();
  },
  // Disables a member by the keyboard alone, signing in on the way.
  async disable_by_keys(name, token) {
    await page.keyboard.press("Tab");
    await tabTo(`Act on ${name}`);
    await page.keyboard.press("Enter");
    await tabTo("Disable");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: `Disable ${name}?` }).waitFor();
    await tabTo("Disable");
    await page.keyboard.press("Enter");
    await page.getByLabel("Admin token").waitFor();
    await page.keyboard.type("a-wrong-token-of-some-length");
    await page.keyboard.press("Enter");
    await page.getByText("the admin token is wrong").waitFor();
    await page.getByLabel("Admin token").fill(token);
    await page.keyboard.press("Enter");
    await page.locator("dialog").waitFor({ state: "hidden" });
    await page.waitForSelector(".live.is-good");
    await tabTo(`Act on ${name}`);
    await page.keyboard.press("Enter");
    await tabTo("Disable");
    await page.keyboard.press("Enter");
    await tabTo("Disable");
    await page.keyboard.press("Enter");
    await row(name).locator(".state.is-off").waitFor();
    return await row(name).locator(".state").innerText();
  },
  async enable_by_mouse(name) {
    await row(name).getByRole("button").click();
    await page.getByRole("button", { name: "Enable", exact: true }).click();
    await page.getByRole("button", { name: "Enable", exact: true }).click();
    await row(name).locator(".state.is-good").waitFor();
    return await page.getByRole("status").last().innerText();
  },
  async set(name, label, value, verb, told) {
    await row(name).getByRole("button").click();
    await page.getByLabel(label).fill(value);
    await page.getByRole("button", { name: verb }).click();
    await page.getByRole("button", { name: verb }).click();
    await page.locator("dialog").waitFor({ state: "hidden" });
    await page.waitForTimeout(1200);
    return await row(name).locator(`.cell[data-label="${told}"], .cell.${told}`).first().innerText();
  },
  // Looks at the page in both schemes and all widths, with and without an open dialog.
  async look() {
    const found = [];
    for (const colorScheme of ["dark", "light"]) {
      for (const width of [390, 1280, 2560]) {
        const viewport = { width, height: width < 500 ? 844 : Math.round(width * 0.5625) };
        const one = await open({ viewport, colorScheme });
        await one.waitForSelector(".row .state.is-good");
        await one.waitForTimeout(1500);
        await one.screenshot({ path: `${folder}/${colorScheme}-${width}.png`, fullPage: width < 500 });
        const wide = await one.evaluate(() => document.documentElement.scrollWidth);
        if (wide > width) found.push(`${colorScheme} ${width}: the page is ${wide} wide`);
        const check = async (where) => {
          await one.evaluate(axe);
          const { violations } = await one.evaluate(() => globalThis.axe.run());
          for (const { id, nodes } of violations) found.push(`${colorScheme} ${width} ${where}: ${id}: ${nodes[0].html.slice(0, 200)}: ${nodes[0].failureSummary}`);
        };
        await check("page");
        await one.getByRole("button", { name: /^Act on/ }).first().click();
        await one.screenshot({ path: `${folder}/${colorScheme}-${width}-dialog.png` });
        await check("dialog");
        await one.close();
      }
    }
    return found;
  },
  // Scrolls through all members, and returns the milliseconds of processor time of the longest task of the main thread.
  async scroll() {
    await page.waitForFunction(() => document.querySelectorAll(".row").length > 1000);
    await page.waitForTimeout(1500);
    await page.screenshot({ path: `${folder}/members.png` });
    const session = await page.context().newCDPSession(page);
    const tasks = [];
    session.on("Tracing.dataCollected", ({ value }) => tasks.push(...value));
    await session.send("Tracing.start", { transferMode: "ReportEvents", categories: "toplevel,disabled-by-default-devtools.timeline,__metadata" });
    await page.mouse.move(500, 500);
    for (let turns = 0; turns < 60; turns++) {
      await page.mouse.wheel(0, 900);
      await page.waitForTimeout(50);
    }
    const over = new Promise((done) => session.once("Tracing.tracingComplete", done));
    await session.send("Tracing.end");
    await over;
    await page.screenshot({ path: `${folder}/members-scrolled.png` });
    const main = tasks.filter((event) => event.name === "thread_name" && event.args.name === "CrRendererMain").map((event) => `${event.pid} ${event.tid}`);
    const run = tasks.filter((event) => event.ph === "X" && event.name.endsWith("RunTask") && main.includes(`${event.pid} ${event.tid}`));
    // Processor time, which no other program on the machine makes longer. A task of a few microseconds may have none.
    const longest = Math.max(...run.map((event) => (event.tdur ?? event.dur) / 1000));
    return { tasks: run.length, longest, scrolled: await page.evaluate(() => scrollY) };
  },
  async errors() {
    return errors;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [step, ...told] = line.split("\t");
  const answer = await steps[step](...told).then((value) => ({ value }), (error) => ({ error: String(error) }));
  if (answer.error) await page.screenshot({ path: `${folder}/failed.png` });
  console.log(JSON.stringify(answer));
}
await browser.close();

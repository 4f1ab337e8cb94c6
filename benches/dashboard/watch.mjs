// Opens the dashboard, and tells the share of a core that its main thread takes once it is quiet.

import { createRequire } from "node:module";

const require = createRequire(process.env.LEASEHOLD_NODE_MODULES + "/from-here.js");
const { chromium } = require("playwright-core");
const [url, seconds] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.LEASEHOLD_CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
await page.goto(url);
await page.waitForFunction(() => document.querySelectorAll(".row").length > 1000);
await page.waitForTimeout(2000);
const session = await page.context().newCDPSession(page);
await session.send("Performance.enable");
const read = async () => Object.fromEntries((await session.send("Performance.getMetrics")).metrics.map(({ name, value }) => [name, value]));
console.log(`${await page.locator("#found").innerText()}`);
const before = await read();
await page.waitForTimeout(Number(seconds) * 1000);
const after = await read();
const share = (name) => (after[name] - before[name]) / (after.Timestamp - before.Timestamp);
console.log(JSON.stringify({ main: share("TaskDuration"), script: share("ScriptDuration") }));
await browser.close();

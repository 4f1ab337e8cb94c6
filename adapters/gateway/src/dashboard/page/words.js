// Numbers, times and elements, as all parts of the page write them.

const byId = (id) => document.getElementById(id);

// Makes an element; text is never read as markup.
function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Writes a text only where it has changed, so that nothing is laid out anew for nothing.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setClass(element, text) {
  if (element.className !== text) element.className = text;
}

function count(number) {
  if (number >= 1e9) return (number / 1e9).toFixed(1) + " G";
  if (number >= 1e6) return (number / 1e6).toFixed(1) + " M";
  if (number >= 1e5) return Math.round(number / 1e3) + " k";
  return Math.round(number).toLocaleString("en").replaceAll(",", "\u202f");
}

// The share of a difference of this many seconds in a figure that is smoothed over a few.
const share = (seconds) => 1 - Math.exp(-seconds / 2);

function rate(number) {
  if (number >= 100) return count(number);
  return number < 0.005 ? "0" : number.toFixed(number < 10 ? 2 : 1).replace(/\.?0+$/, "");
}

function milliseconds(time) {
  if (time == null) return "–";
  if (time < 10) return time.toFixed(1) + " ms";
  if (time < 1000) return Math.round(time) + " ms";
  return span(time);
}

function span(time) {
  const seconds = Math.max(0, time) / 1000;
  if (seconds < 10) return seconds.toFixed(1) + " s";
  if (seconds < 60) return Math.ceil(seconds) + " s";
  if (seconds < 3600) return Math.floor(seconds / 60) + " min " + String(Math.floor(seconds % 60)).padStart(2, "0") + " s";
  if (seconds < 172800) return Math.floor(seconds / 3600) + " h " + String(Math.floor((seconds / 60) % 60)).padStart(2, "0") + " min";
  return Math.floor(seconds / 86400) + " days";
}

function clock(at) {
  return new Date(at).toLocaleTimeString("en-GB");
}

function dollars(amount) {
  return "$" + (amount < 10 ? amount.toFixed(4) : amount.toFixed(2));
}

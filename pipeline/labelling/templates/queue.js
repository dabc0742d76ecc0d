"use strict";
const one = (selector) => document.querySelector(selector);
const cards = JSON.parse(one("#cards").textContent);
const buttons = [...document.querySelectorAll("#classes button")], strip = [...document.querySelectorAll("#strip button")];
const labels = cards.map(() => null);
let now = 0;

function show(place) {
  now = Math.max(0, Math.min(cards.length - 1, place));
  const card = cards[now], image = one("#image");
  image.hidden = !card.image;
  one("#missing").hidden = Boolean(card.image);
  if (card.image) image.src = card.image;
  image.alt = card.path;
  one("#place").textContent = `${now + 1} of ${cards.length}`;
  one("#path").textContent = card.path;
  one("#guess").textContent = `the head says ${card.predicted}, probability ${card.probability.toFixed(2)}`;
  for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.class === labels[now]);
  strip.forEach((each, i) => each.classList.toggle("now", i === now));
  const count = labels.filter((label) => label !== null).length;
  one("#done").textContent = `${count} of ${cards.length} labelled`;
  one("#save").disabled = !count;
}
function label(name) {
  labels[now] = name;
  strip[now].querySelector("span").textContent = name ?? "";
  show(now + 1);
}
const csvCell = (text) => /[",\r\n;|\t]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
function labelTable() {
  const group = one("#save").dataset.group, rows = [["path", "label", ...(group ? [group] : [])]];
  cards.forEach((card, i) => labels[i] === null || rows.push([card.path, labels[i], ...(group ? [card.path] : [])]));
  return rows.map((row) => row.map(csvCell).join(",") + "\n").join("");
}
for (const button of buttons) button.addEventListener("click", () => label(button.dataset.class));
strip.forEach((button, i) => button.addEventListener("click", () => show(i)));
one("#back").addEventListener("click", () => show(now - 1));
one("#on").addEventListener("click", () => show(now + 1));
one("#skip").addEventListener("click", () => label(null));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft") show(now - 1);
  else if (event.key === "ArrowRight") show(now + 1);
  else if (event.key === "s") label(null);
  else {
    const button = buttons.find((each) => each.dataset.key === event.key);
    if (button) label(button.dataset.class);
  }
});
window.addEventListener("beforeunload", (event) => {
  if (labels.some((each) => each !== null) && !saved) event.preventDefault();
});
let saved = false;
one("#save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([labelTable()], { type: "text/csv" }));
  link.download = one("#save").dataset.file;
  link.click();
  URL.revokeObjectURL(link.href);
  saved = true;
});
show(0);

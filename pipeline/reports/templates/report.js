"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector) => document.querySelector(selector);

// The leaderboard: a column's button sorts by it, and again the other way; rows without a figure stay last.
function sortBy(button) {
  const header = button.closest("th");
  const column = [...header.parentNode.children].indexOf(header);
  const now = header.getAttribute("aria-sort");
  const first = button.dataset.first || "ascending";
  const order = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
  for (const each of all("th[aria-sort]", header.parentNode)) each.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const value = (row) => row.children[column].dataset.v;
  const compare = button.dataset.type === "text"
    ? (a, b) => sign * value(a).localeCompare(value(b))
    : (a, b) => (value(a) === "") - (value(b) === "") || sign * (value(a) - value(b)) || a.dataset.row - b.dataset.row;
  const body = one("#heads tbody");
  body.append(...[...body.rows].sort(compare));
}
for (const button of all("#heads thead button")) button.addEventListener("click", () => sortBy(button));

// Who wants to know which head is looked at.
let picked = Number(one("#detail").dataset.shown);
const onPick = [];
// What is shown below each doubted image: functions of {i, label, other, chance, given, sha256}; judging.js adds one.
const belowDoubts = [];

// One head at a time is looked at in detail; its curves stand out from the others.
function pick(number) {
  for (const each of all("[data-head]")) {
    const mine = each.dataset.head === String(number);
    if (each.classList.contains("curve")) each.classList.toggle("on", mine);
    else each.hidden = !mine;
  }
  for (const on of all(".curve.on")) on.parentNode.append(on);
  for (const row of all("#heads tbody tr")) row.classList.toggle("chosen", row.dataset.row === String(number));
  const name = one(`#heads tr[data-row="${number}"] .name`).dataset.v;
  for (const mark of all(".mark")) mark.classList.toggle("chosen", mark.dataset.mark === name);
  const select = one("#pick");
  if (select) select.value = String(number);
  picked = Number(number);
  for (const told of onPick) told();
}
const select = one("#pick");
if (select) {
  select.addEventListener("change", () => pick(select.value));
  select.value = String(picked); // browsers keep a choice over a reload
}
for (const link of all("[data-pick]")) link.addEventListener("click", () => pick(link.dataset.pick));
pick(picked);

const heat = one("#heat");
if (heat) {
  const show = () => one("#attended").classList.toggle("plain", !heat.checked);
  heat.addEventListener("change", show);
  show();
}

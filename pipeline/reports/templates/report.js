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
}
const select = one("#pick");
if (select) {
  select.addEventListener("change", () => pick(select.value));
  select.value = "0"; // browsers keep a choice over a reload
}
for (const link of all("[data-pick]")) link.addEventListener("click", () => pick(link.dataset.pick));
pick(0);

const heat = one("#heat");
if (heat) {
  const show = () => one("#attended").classList.toggle("plain", !heat.checked);
  heat.addEventListener("change", show);
  show();
}

// The map: the image nearest to the pointer, or walked to by arrow keys.
function openMap(svg, points) {
  const marks = all("use[data-class]", svg);
  const cursor = one("#cursor"), tip = one("#tip"), image = one("#tip-image"), here = one("#here");
  const classes = new Set();
  let kind, current = -1;

  const shown = (i) => !classes.size || classes.has(marks[i].dataset.class);
  function draw(name) {
    kind = name;
    points.forEach((point, i) => {
      marks[i].setAttribute("x", point.at[kind][0]);
      marks[i].setAttribute("y", point.at[kind][1]);
    });
    leave();
  }
  function leave() {
    current = -1;
    tip.hidden = true;
    cursor.setAttribute("cx", -20);
  }
  function show(i, told) {
    if (i === current || i < 0) return;
    current = i;
    const point = points[i], [x, y] = point.at[kind];
    cursor.setAttribute("cx", x);
    cursor.setAttribute("cy", y);
    image.hidden = !point.image;
    if (point.image) image.src = point.image;
    image.alt = point.path;
    const wrong = point.predicted !== null && point.predicted !== point.label;
    const said = `${point.label}${wrong ? `, predicted ${point.predicted}` : ""} (${point.split})`;
    one("#tip-said").textContent = said;
    one("#tip-path").textContent = point.path;
    if (told) here.textContent = `${point.path}: ${said}`;
    tip.hidden = false;
    const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
    const left = x / view.width * box.width, top = y / view.height * box.height;
    tip.style.left = `${Math.max(0, left + 16 + tip.offsetWidth > box.width ? left - 16 - tip.offsetWidth : left + 16)}px`;
    tip.style.top = `${Math.max(0, Math.min(top - tip.offsetHeight / 2, box.height - tip.offsetHeight))}px`;
  }
  function nearest(x, y, reach, allowed = () => true) {
    let best = -1, least = reach * reach;
    points.forEach((point, i) => {
      const dx = point.at[kind][0] - x, dy = point.at[kind][1] - y, far = dx * dx + dy * dy;
      if (far < least && shown(i) && allowed(dx, dy, i)) [best, least] = [i, far];
    });
    return best;
  }
  const point = (event) => {
    const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
    const scale = view.width / box.width;
    const i = nearest((event.clientX - box.left) * scale, (event.clientY - box.top) * scale, 24 * Math.max(1, scale));
    if (i < 0) leave(); else show(i);
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
  svg.addEventListener("blur", leave);
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  svg.addEventListener("keydown", (event) => {
    const { width, height } = svg.viewBox.baseVal;
    if (event.key === "Escape") return leave();
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    if (current < 0) return show(nearest(width / 2, height / 2, 1e4), true);
    const [x, y] = points[current].at[kind];
    const ahead = (dx, dy, i) => i !== current && dx * step[0] + dy * step[1] >= Math.abs(dx * step[1] + dy * step[0]) && (dx || dy);
    show(nearest(x, y, 1e4, ahead), true);
  });
  for (const radio of all("#kinds input")) {
    radio.addEventListener("change", () => draw(radio.value));
    if (radio.checked) draw(radio.value);
  }
  for (const button of all(".legend button")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true", name = button.dataset.class;
      button.setAttribute("aria-pressed", on);
      if (on) classes.add(name); else classes.delete(name);
      svg.classList.toggle("picking", classes.size > 0);
      for (const mark of marks) mark.classList.toggle("picked", classes.has(mark.dataset.class));
      leave();
    });
  }
}
const svg = one("#points");
if (svg) openMap(svg, JSON.parse(one("#map-data").textContent));

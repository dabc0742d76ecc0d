"use strict";
const one = (selector, root = document) => root.querySelector(selector);
const drop = one("#drop"), input = one("#files"), answers = one("#answers"), status = one("#status");
const most = Number(document.querySelector("main").dataset.most);
let asked = 0, answered = 0;

function term(list, name, value) {
  const dt = document.createElement("dt"), dd = document.createElement("dd");
  dt.textContent = name;
  dd.textContent = value;
  list.append(dt, dd);
}
function tell(card, found) {
  one(".class", card).textContent = found.class;
  one(".chance", card).textContent = found.probability.toFixed(3);
  one(".unlike", card).hidden = !found.unlike;
  const list = one("dl", card);
  if (found.set) term(list, "set", found.set.length ? found.set.join(", ") : "empty: typical of no class");
  if (found.novelty !== undefined) term(list, "novelty", found.novelty.toFixed(2));
  const chances = Object.entries(found.probabilities).sort((a, b) => b[1] - a[1]).slice(0, 5);
  for (const [name, chance] of chances) term(list, name, chance.toFixed(3));
  if (found.looked) {
    one(".heat", card).src = found.looked;
    one(".heat", card).hidden = one(".legend", card).hidden = false;
  }
  one(".beside", card).hidden = !found.nearest?.length;
  for (const near of found.nearest ?? []) {
    const figure = document.createElement("figure"), image = document.createElement("img");
    const caption = document.createElement("figcaption");
    image.src = near.image;
    image.alt = `training image ${near.name}`;
    caption.textContent = `${near.label}, ${near.distance.toFixed(3)}`;
    figure.append(image, caption);
    one(".nearest", card).append(figure);
  }
}
async function ask(file) {
  const card = one("#card").content.cloneNode(true).firstElementChild;
  one(".name", card).textContent = file.name;
  one(".photo", card).src = URL.createObjectURL(file);
  one(".photo", card).alt = file.name;
  one(".photo", card).addEventListener("error", () => one(".photo", card).remove()); // not all that is read here can be shown by a browser
  answers.prepend(card);
  try {
    if (file.size > most) throw new Error(`a photo may have at most ${Math.floor(most / 1e6)} MB; this file has ${Math.ceil(file.size / 1e6)} MB`);
    const reply = await fetch(`/predict?details=1&name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
    const found = await reply.json();
    if (!reply.ok) throw new Error(found.error);
    tell(card, found);
  } catch (error) {
    const said = one("h2", card);
    said.textContent = error.message;
    said.className = "error";
  }
  answered += 1;
  status.textContent = `${answered} of ${asked} photos answered`;
}
async function askAll(files) {
  const images = [...files];
  asked += images.length;
  status.textContent = `${answered} of ${asked} photos answered`;
  const next = async () => { while (images.length) await ask(images.shift()); };
  await Promise.all([next(), next(), next(), next()]);
}
input.addEventListener("change", () => askAll(input.files));
for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
drop.addEventListener("drop", (event) => askAll(event.dataTransfer.files));
drop.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") input.click(); });

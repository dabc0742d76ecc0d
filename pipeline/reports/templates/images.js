// Images as columns of data. Their thumbnails are cut from sheets, each of which is decoded when it is first needed.
const data = JSON.parse(one("#page-data").textContent);
const sheets = new Map();
const large = new Map(all(".browser img[data-row]").map((image) => [data.row.indexOf(Number(image.dataset.row)), image.src]));

function sheet(number) {
  if (!sheets.has(number)) {
    const image = new Image();
    image.src = one(`#sheet-${number}`).textContent;
    sheets.set(number, image.decode().then(() => image));
  }
  return sheets.get(number);
}

async function drawThumb(canvas, i) {
  const { side, across } = data.sheet, place = data.thumb[i], per = across * across;
  canvas.dataset.image = i;
  const image = await sheet(Math.floor(place / per));
  if (canvas.dataset.image !== String(i)) return; // another one was asked for meanwhile
  const cell = place % per;
  canvas.width = canvas.height = side;
  canvas.getContext("2d").drawImage(image, cell % across * side, Math.floor(cell / across) * side, side, side, 0, 0, side, side);
}

function element(name, options = {}, children = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key in made && key !== "role") made[key] = value; else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}
const bdi = (text) => element("bdi", { textContent: text });
const percent = (p) => (p >= 0.995 && p < 1 ? ">99" : p > 0 && p < 0.005 ? "<1" : Math.round(100 * p)) + "\u00a0%"; // which no line breaks

function pathOf(i) {
  const path = data.path[i];
  if (data.link === null) return element("span", { className: "path", title: path }, [bdi(path)]);
  const href = data.link + path.split("/").map(encodeURIComponent).join("/");
  return element("a", { className: "path", title: path, href, target: "_blank", rel: "noopener" }, [bdi(path)]);
}

// Cells that spreadsheets would compute begin with an apostrophe, paths with ./ (as in the program's own tables).
const risky = (text) => /^[=+\-@\t\r]/.test(text);
function csv(columns, rows) {
  const cell = (value) => /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  return [columns, ...rows].map((row) => row.map((value) => cell(String(value))).join(",")).join("\r\n") + "\r\n";
}
const textCell = (text) => risky(text) ? `'${text}` : text;
const pathCell = (path) => risky(path) ? `./${path}` : path;

function save(name, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const PER_PAGE = 48;

// A browser of images: `list` gives all of them as {i, label, other, chance, given}, `row` what a table says of one; what the functions
// `below` make is shown below an image.
function openBrowser(root, list, words, file, columns, row, below = []) {
  const form = all("form", root)[0], field = (name) => form.elements[name];
  const cards = all(".cards", root)[0], paths = all(".paths", root)[0];
  let page = 0, found = [];

  function filtered() {
    const low = Number(field("low").value || 0) / 100, high = Number(field("high").value || 100) / 100;
    const label = field("label").value, other = field("other").value, slice = field("slice") ? field("slice").value : "";
    const cut = slice.lastIndexOf("/"), column = slice && data.columns[slice.slice(0, cut)], code = Number(slice.slice(cut + 1));
    const wrong = field("wrong") && field("wrong").checked;
    return list().filter((each) =>
      (label === "" || each.label === Number(label)) && (other === "" || each.other === Number(other)) &&
      (!wrong || each.label !== each.other) && each.chance >= low - 1e-9 && each.chance <= high + 1e-9 &&
      (!column || column.codes[each.i] === code));
  }
  function draw() {
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    page = Math.min(Math.max(0, page), pages - 1);
    const shown = found.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
    cards.replaceChildren(...shown.map(figure));
    const from = page * PER_PAGE + 1;
    all(".count", root)[0].textContent = found.length ? `${from}–${from + shown.length - 1} of ${found.length.toLocaleString("en")}` : "none";
    all(".page", root)[0].textContent = `page ${page + 1} of ${pages}`;
    all(".before", root)[0].disabled = page === 0;
    all(".after", root)[0].disabled = page === pages - 1;
    for (const each of all(".save, .copy", root)) each.disabled = !found.length;
    paths.hidden = true;
  }
  function figure(each) {
    const alt = `${data.path[each.i]}: labelled ${data.classes[each.label]}, ${words} ${data.classes[each.other]}`;
    let picture;
    if (large.has(each.i)) picture = element("img", { src: large.get(each.i), alt });
    else if (data.thumb[each.i] >= 0) {
      picture = element("canvas", { role: "img", "aria-label": alt });
      drawThumb(picture, each.i);
    } else picture = element("span", { className: "noimage", role: "img", "aria-label": `${alt}; no thumbnail`, textContent: "no thumbnail" });
    const given = each.given === undefined ? [] : [` ${percent(each.given)} · ${data.splits[data.split[each.i]]}`];
    return element("figure", { className: "card" }, [picture, ...below.map((make) => make(each)), element("figcaption", {}, [
      element("span", { className: "said" }, [
        element("span", { className: "dim-inline", textContent: `${words} ` }), element("b", {}, [bdi(data.classes[each.other])]), ` ${percent(each.chance)}`]),
      element("span", { className: "dim" }, ["labelled ", bdi(data.classes[each.label]), ...given]), pathOf(each.i)])]);
  }
  function update() {
    found = filtered();
    page = 0;
    draw();
  }
  for (const kind of ["input", "change"]) form.addEventListener(kind, update);
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  all(".before", root)[0].addEventListener("click", () => { page -= 1; draw(); });
  all(".after", root)[0].addEventListener("click", () => { page += 1; draw(); });
  all(".save", root)[0].addEventListener("click", () => save(file(), csv(columns, found.map(row))));
  all(".copy", root)[0].addEventListener("click", async () => {
    const text = found.map((each) => `${data.root}/${data.path[each.i]}`).join("\n");
    paths.value = text;
    try {
      await navigator.clipboard.writeText(text);
      all(".count", root)[0].textContent = `${found.length.toLocaleString("en")} paths copied`;
    } catch { // not permitted: the reader copies them
      paths.hidden = false;
      paths.select();
    }
  });
  update();
  return { update, set(values) { form.reset(); for (const [name, value] of Object.entries(values)) if (field(name)) field(name)[name === "wrong" ? "checked" : "value"] = value; update(); } };
}

const byChance = (a, b) => b.chance - a.chance;
const mistakes = openBrowser(
  one("#mistakes-browser"),
  () => {
    const head = data.heads[picked];
    return data.tested.map((i, k) => ({ i, label: data.label[i], other: head.predicted[k], chance: head.chance[k] })).sort(byChance);
  },
  "predicted", () => `${data.heads[picked].name}-test-images.csv`, ["path", "label", "predicted", "p(predicted)"],
  (each) => [pathCell(data.path[each.i]), textCell(data.classes[each.label]), textCell(data.classes[each.other]), each.chance]);
onPick.push(mistakes.update);

const doubts = one("#doubts-browser");
if (doubts) {
  const held = data.doubts;
  openBrowser(
    doubts, () => held.image.map((i, k) => ({ i, label: data.label[i], other: held.suggested[k], chance: held.chance[k], given: held.given[k], sha256: held.sha256[k] })),
    "suggested", () => "doubted-labels.csv", ["path", "split", "label", "suggested", "p(label)", "p(suggested)"],
    (each) => [pathCell(data.path[each.i]), data.splits[data.split[each.i]], textCell(data.classes[each.label]), textCell(data.classes[each.other]), each.given, each.chance],
    belowDoubts);
}

// A cell of the confusion matrix shows its images.
for (const cell of all("button[data-true]")) {
  cell.addEventListener("click", () => {
    const right = cell.dataset.true === cell.dataset.predicted;
    mistakes.set({ label: cell.dataset.true, other: cell.dataset.predicted, wrong: !right });
    one("#mistakes").scrollIntoView({ block: "start" });
    one("#mistakes-browser select").focus({ preventScroll: true });
  });
}

// Curves of one class against the rest, beside the mean of all classes.
const curveClass = one("#curve-class");
if (curveClass) {
  const show = () => {
    for (const path of all("path[data-curve]")) {
      const ofHead = data.curves[path.dataset.curve][picked], line = curveClass.value !== "" && ofHead && ofHead[curveClass.value];
      path.setAttribute("d", line || "");
      path.parentNode.append(path);
    }
  };
  curveClass.value = "";
  curveClass.addEventListener("change", show);
  onPick.push(show);
}

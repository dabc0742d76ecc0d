// The map, on a canvas: up to 20,000 points that are redrawn as it is moved, and the image nearest to the pointer or reached by arrow keys.
function openMap(canvas) {
  const WIDTH = Number(canvas.dataset.width), HEIGHT = Number(canvas.dataset.height), RADIUS = 5;
  const context = canvas.getContext("2d"), tip = one("#tip"), here = one("#here"), picture = one("#tip-image");
  const shapes = [0, 1, 2, 3].map((each) => new Path2D(one(`#s${each}`).getAttribute("d")));
  const ofTested = new Map(data.tested.map((i, k) => [i, k])), head = data.heads[one("#detail").dataset.shown];
  const points = data.points.map((i, k) => ({ i, label: data.label[i], predicted: ofTested.has(i) ? head.predicted[ofTested.get(i)] : null }));
  const isWrong = (point) => point.predicted !== null && point.predicted !== point.label;
  const classes = new Set();
  let kind, at, stamps = [], surface, onlyWrong = false, current = -1, scale = 1, left = 0, top = 0, drawn = false;

  const shown = (point) => (!classes.size || classes.has(point.label)) && (!onlyWrong || isWrong(point));
  const unit = () => canvas.clientWidth / WIDTH; // CSS pixels per unit of the map at scale 1

  // Each class's mark is drawn once, with and without the ring of a mistake, and its pixels are then mixed into those of the map: of
  // 20,000 points, that takes a tenth of the time of as many calls of drawImage.
  function makeStamps() {
    const style = getComputedStyle(document.documentElement), ratio = devicePixelRatio, side = Math.ceil(2 * (RADIUS + 1) * ratio);
    const pen = Object.assign(document.createElement("canvas"), { width: side, height: side }).getContext("2d", { willReadFrequently: true });
    stamps = data.classes.map((_, label) => [false, true].map((ring) => {
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.clearRect(0, 0, side, side);
      pen.scale(ratio, ratio);
      pen.translate(RADIUS + 1, RADIUS + 1);
      pen.fillStyle = style.getPropertyValue(`--c${label % 10}`);
      pen.globalAlpha = ring ? 0.95 : 0.68;
      pen.fill(shapes[label % 4]);
      if (ring) {
        pen.lineWidth = 1.3;
        pen.strokeStyle = style.getPropertyValue("--ink");
        pen.stroke(shapes[label % 4]);
      }
      return sparse(pen.getImageData(0, 0, side, side).data, side);
    }));
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.globalAlpha = 1;
    pen.fillStyle = style.getPropertyValue("--surface");
    pen.fillRect(0, 0, side, side);
    surface = new Uint32Array(pen.getImageData(0, 0, 1, 1).data.buffer)[0];
  }
  // What is not transparent of a mark: each pixel's place about the middle, share and colour.
  function sparse(pixels, side) {
    const found = [];
    for (let at = 0; at < side * side; at++) {
      const share = pixels[4 * at + 3] / 255;
      if (share) found.push(at % side - (side >> 1), Math.floor(at / side) - (side >> 1), share, ...pixels.slice(4 * at, 4 * at + 3));
    }
    return Float32Array.from(found);
  }
  function mix(into, width, height, stamp, x, y) {
    const middleX = Math.round(x), middleY = Math.round(y);
    for (let from = 0; from < stamp.length; from += 6) {
      const column = middleX + stamp[from], row = middleY + stamp[from + 1], share = stamp[from + 2];
      if (column < 0 || row < 0 || column >= width || row >= height) continue;
      const to = 4 * (row * width + column);
      into[to] += (stamp[from + 3] - into[to]) * share;
      into[to + 1] += (stamp[from + 4] - into[to + 1]) * share;
      into[to + 2] += (stamp[from + 5] - into[to + 2]) * share;
    }
  }
  function place(k) {
    const [x, y] = at[k], by = scale * unit();
    return [(x - left) * by, (y - top) * by];
  }
  function draw() {
    drawn = false;
    const ratio = devicePixelRatio, wide = canvas.clientWidth, high = wide * HEIGHT / WIDTH, by = scale * wide / WIDTH;
    if (canvas.width !== Math.round(wide * ratio) || canvas.height !== Math.round(high * ratio)) {
      canvas.width = Math.round(wide * ratio);
      canvas.height = Math.round(high * ratio);
    }
    const image = context.createImageData(canvas.width, canvas.height);
    new Uint32Array(image.data.buffer).fill(surface);
    for (const over of [false, true]) { // mistakes on top
      points.forEach((point, k) => {
        if (isWrong(point) !== over || !shown(point)) return;
        const x = (at[k][0] - left) * by, y = (at[k][1] - top) * by;
        if (x < -RADIUS || y < -RADIUS || x > wide + RADIUS || y > high + RADIUS) return;
        mix(image.data, canvas.width, canvas.height, stamps[point.label][Number(over)], x * ratio, y * ratio);
      });
    }
    context.putImageData(image, 0, 0);
    if (current >= 0) {
      const [x, y] = place(current);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
      context.lineWidth = 2;
      context.beginPath();
      context.arc(x, y, 9, 0, 7);
      context.stroke();
    }
  }
  function redraw() {
    if (!drawn) requestAnimationFrame(draw);
    drawn = true;
  }
  function leave() {
    current = -1;
    tip.hidden = true;
    redraw();
  }
  function show(k, told) {
    if (k === current || k < 0) return;
    current = k;
    const { i, label, predicted } = points[k], wrong = isWrong(points[k]);
    picture.hidden = data.thumb[i] < 0;
    picture.setAttribute("aria-label", data.path[i]);
    if (!picture.hidden) drawThumb(picture, i);
    const said = `${data.classes[label]}${wrong ? `, predicted ${data.classes[predicted]}` : ""} (${data.splits[data.split[i]]})`;
    one("#tip-said").textContent = said;
    one("#tip-path").textContent = data.path[i];
    if (told) here.textContent = `${data.path[i]}: ${said}`;
    tip.hidden = false;
    const [x, y] = place(k), wide = canvas.clientWidth, high = canvas.clientHeight;
    tip.style.left = `${Math.max(0, x + 16 + tip.offsetWidth > wide ? x - 16 - tip.offsetWidth : x + 16)}px`;
    tip.style.top = `${Math.max(0, Math.min(y - tip.offsetHeight / 2, high - tip.offsetHeight))}px`;
    redraw();
  }
  function nearest(x, y, reach, allowed = () => true) { // in units of the map
    let best = -1, least = reach * reach;
    points.forEach((point, k) => {
      const dx = at[k][0] - x, dy = at[k][1] - y, far = dx * dx + dy * dy;
      if (far < least && shown(point) && allowed(dx, dy, k)) [best, least] = [k, far];
    });
    return best;
  }
  function zoom(times, x = WIDTH / 2, y = HEIGHT / 2) { // about a point in units of the canvas
    const to = times === 0 ? 1 : Math.min(40, Math.max(1, scale * times));
    left += x / scale - x / to;
    top += y / scale - y / to;
    scale = to;
    keepInside();
    leave();
  }
  function keepInside() {
    left = Math.min(Math.max(0, left), WIDTH - WIDTH / scale);
    top = Math.min(Math.max(0, top), HEIGHT - HEIGHT / scale);
  }
  const inCanvas = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / unit(), (event.clientY - box.top) / unit()];
  };

  let dragged = null;
  const point = (event) => {
    const [x, y] = inCanvas(event);
    if (dragged && event.buttons) {
      left -= (x - dragged[0]) / scale;
      top -= (y - dragged[1]) / scale;
      dragged = [x, y];
      keepInside();
      return leave();
    }
    const k = nearest(left + x / scale, top + y / scale, 24 / scale * Math.max(1, 1 / unit()));
    if (k < 0) leave(); else show(k);
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", (event) => {
    point(event);
    if (scale > 1) {
      dragged = inCanvas(event);
      canvas.setPointerCapture(event.pointerId);
    }
  });
  canvas.addEventListener("pointerup", () => { dragged = null; });
  canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
  canvas.addEventListener("blur", leave);
  canvas.addEventListener("dblclick", (event) => zoom(2, ...inCanvas(event)));
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return; // the page scrolls
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8, ...inCanvas(event));
  }, { passive: false });
  for (const button of all("[data-zoom]")) button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return leave();
    if (["+", "=", "-", "0"].includes(event.key)) return zoom({ "-": 0.5, "0": 0 }[event.key] ?? 2);
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    if (current < 0) return show(nearest(left + WIDTH / scale / 2, top + HEIGHT / scale / 2, 1e4), true);
    const [x, y] = at[current];
    const ahead = (dx, dy, k) => k !== current && dx * step[0] + dy * step[1] >= Math.abs(dx * step[1] + dy * step[0]) && (dx || dy);
    const next = nearest(x, y, 1e4, ahead);
    if (next >= 0 && scale > 1) { // what is walked to stays in sight
      left = at[next][0] - WIDTH / scale / 2;
      top = at[next][1] - HEIGHT / scale / 2;
      keepInside();
    }
    show(next, true);
  });
  for (const radio of all("#kinds input")) {
    const choose = () => { kind = radio.value; at = data.at[kind]; zoom(0); };
    radio.addEventListener("change", choose);
    if (radio.checked) choose();
  }
  one("#only-wrong").addEventListener("change", (event) => { onlyWrong = event.target.checked; leave(); });
  for (const button of all(".legend button")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true", label = Number(button.dataset.class);
      button.setAttribute("aria-pressed", on);
      if (on) classes.add(label); else classes.delete(label);
      leave();
    });
  }
  new ResizeObserver(() => { makeStamps(); redraw(); }).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { makeStamps(); redraw(); });
  makeStamps();
  redraw();
}
if (one("#points")) openMap(one("#points"));

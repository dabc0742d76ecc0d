"use strict";
// What is wider than its frame says so, since a phone shows no scroll bar.
const frames = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const hint = target.previousElementSibling;
    const needed = target.scrollWidth > target.clientWidth + 1;
    if (hint && hint.classList.contains("swipe")) hint.hidden = !needed;
    else if (needed) {
      const made = document.createElement("p");
      made.className = "swipe";
      made.textContent = "scrolls sideways →";
      target.before(made);
    }
  }
});
for (const each of document.querySelectorAll(".scroll")) frames.observe(each);

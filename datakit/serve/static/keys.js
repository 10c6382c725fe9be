"use strict";
// "/" goes to the search, arrows go from picture to picture. The pages are whole without it.
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  if (event.key === "/") {
    const search = document.querySelector("input[type=search]");
    if (search) {
      event.preventDefault();
      search.select();
      search.focus();
    }
    return;
  }
  const pictures = Array.from(document.querySelectorAll(".card .picture"));
  const at = pictures.indexOf(document.activeElement);
  if (at < 0 || !event.key.startsWith("Arrow")) return;
  const top = (one) => Math.round(one.getBoundingClientRect().top);
  const row = pictures.filter((one) => top(one) === top(pictures[0])).length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row }[event.key];
  const next = pictures[at + step];
  if (next) {
    event.preventDefault();
    next.focus();
  }
});

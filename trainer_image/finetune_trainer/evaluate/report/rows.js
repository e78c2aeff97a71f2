"use strict";
(() => {
  const list = document.getElementById("rows");
  if (!list) return;
  const PAGE = 20;
  const find = (id) => document.getElementById(id);
  const box = find("row-words");
  const fate = find("row-fate");
  const order = find("row-order");
  const count = find("row-count");
  const more = find("row-more");
  const rows = [...list.children].map((element, place) => ({
    element,
    place,
    text: element.textContent.toLowerCase(),
    fate: element.dataset.fate,
    number: Number(element.dataset.number),
    change: Number(element.dataset.change),
    score: Number(element.dataset.score),
  }));
  const orders = {
    concern: (a, b) => a.place - b.place,
    score: (a, b) => a.score - b.score || a.number - b.number,
    gain: (a, b) => b.change - a.change || a.number - b.number,
    data: (a, b) => a.number - b.number,
  };
  let limit = PAGE;
  let fitting = rows;
  const show = () => {
    fitting.forEach((row, place) => { row.element.hidden = place >= limit; });
    const shown = Math.min(limit, fitting.length);
    count.textContent = `${shown} of ${fitting.length} matching rows shown`;
    more.hidden = shown === fitting.length;
  };
  const update = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row) => (!fate.value || row.fate === fate.value)
      && words.every((word) => row.text.includes(word));
    for (const row of rows) row.element.hidden = true;
    fitting = rows.filter(fits).sort(orders[order.value]);
    list.append(...fitting.map((row) => row.element));
    limit = PAGE;
    show();
  };
  box.addEventListener("input", update);
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    box.value = "";
    update();
  });
  fate.addEventListener("change", update);
  order.addEventListener("change", update);
  more.addEventListener("click", () => {
    const first = fitting[limit];
    limit += PAGE;
    show();
    first.element.focus();
  });
  // Paper cannot be unfolded.
  window.addEventListener("beforeprint", () => {
    for (const row of rows) row.element.querySelector("details").open = true;
  });
  find("row-filter").hidden = false;
  update();
})();

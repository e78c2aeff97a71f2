"use strict";
(() => {
  const bar = document.getElementById("filter-bar");
  if (!bar) return;
  const box = document.getElementById("filter");
  const count = document.getElementById("filter-count");
  const rows = [...document.querySelectorAll("#findings tbody tr")];
  const update = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = words.every((word) => text.includes(word));
      row.hidden = !fits;
      if (fits) shown += 1;
    }
    count.textContent = `${shown} of ${rows.length} shown`;
  };
  box.addEventListener("input", update);
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    box.value = "";
    update();
  });
  bar.hidden = false;
  update();
})();

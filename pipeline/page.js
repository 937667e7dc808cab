"use strict";

// A row that has no value (an empty data-value) comes last, whichever way the column is sorted.
function compare(column, sign) {
  return (first, second) => {
    const [a, b] = [first, second].map((entry) => entry.rows[0].cells[column].dataset.value);
    if (a === "" || b === "") return (a === "") - (b === "");
    const difference = Number.isNaN(Number(a)) ? a.localeCompare(b) : Number(a) - Number(b);
    return sign * difference;
  };
}

function sortBy(header) {
  const previous = header.getAttribute("aria-sort");
  const first = header.dataset.first;
  const other = first === "ascending" ? "descending" : "ascending";
  const order = previous === first ? other : first;
  for (const cell of header.parentElement.cells) cell.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  const table = header.closest("table");
  const entries = [...table.tBodies];
  entries.sort(compare(header.cellIndex, order === "ascending" ? 1 : -1));
  table.append(...entries);
}

function toggle(button) {
  const detail = document.getElementById(button.getAttribute("aria-controls"));
  detail.hidden = !detail.hidden;
  button.setAttribute("aria-expanded", String(!detail.hidden));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.classList.contains("toggle")) toggle(button);
  else sortBy(button.closest("th"));
});

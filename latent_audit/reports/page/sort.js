// Sorts a table by the column whose head is clicked; again turns it round. A cell's exact value stands in its title.
"use strict";
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const key = (row) => row.cells[column].title || row.cells[column].textContent;
    const number = (text) => (text === "inf" ? Infinity : text.trim() === "" ? NaN : Number(text));
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const compared = (one, two) => {
        const [a, b] = [key(one), key(two)], [x, y] = [number(a), number(b)];
        if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // what is no number comes last
        const order = Number.isNaN(x) ? a.localeCompare(b) : x === y ? 0 : x < y ? -1 : 1;
        return down ? -order : order;
      };
      body.append(...[...body.rows].sort(compared));
    });
  });
}

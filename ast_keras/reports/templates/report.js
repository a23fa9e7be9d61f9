// Makes tables with class "sortable" sort on a click on a heading; cells without a number are last
// in either direction.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const number = row => row.cells[column].dataset.value;
      const text = row => row.cells[column].textContent;
      const compare = (a, b) => {
        const missing = [number(a) === undefined, number(b) === undefined];
        if (missing[0] && missing[1]) return column ? 0 : sign * text(a).localeCompare(text(b));
        return missing[0] - missing[1] || sign * (number(a) - number(b));
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}

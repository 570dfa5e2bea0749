// --- sections as tabs; the address remembers which -------------------------------------------------------------------
(() => {
  const list = document.querySelector("header .tabs");
  if (!list) return;
  const tabs = [...list.querySelectorAll("[data-tab]")], panels = tabs.map((tab) => document.getElementById(tab.dataset.tab));
  const select = tabList(tabs, (index) => {
    panels.forEach((panel, i) => { panel.hidden = i !== index; });
    // Heat maps and charts measure the room they have.
    dispatchEvent(new Event("resize"));
    try { history.replaceState(null, "", `#${panels[index].id}`); } catch { /* not in sandboxed frames */ }
  });
  list.hidden = false;
  panels.forEach((panel, i) => {
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tabs[i].id);
  });
  const wanted = () => Math.max(0, panels.findIndex((panel) => `#${panel.id}` === location.hash));
  addEventListener("hashchange", () => { if (panels.some((panel) => `#${panel.id}` === location.hash)) select(wanted(), false); });
  select(wanted(), false);
})();

// --- tables that sort ------------------------------------------------------------------------------------------------
for (const table of document.querySelectorAll("table.board")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells], body = table.tBodies[0];
  const key = (cell, kind) => {
    if (!cell || cell.colSpan > 1) return null;
    if (kind !== "number") return (cell.querySelector("bdi") || cell).textContent.trim() || null;
    return cell.dataset.sort ? Number(cell.dataset.sort) : null;
  };
  const compare = (a, b) => {
    if (a === null || b === null) return 0;
    return typeof a === "number" ? a - b : a.localeCompare(b);
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const opposite = { ascending: "descending", descending: "ascending" };
    const order = opposite[head.getAttribute("aria-sort")] || head.dataset.first;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const keyed = [...body.rows].map((row) => ({ row, key: key(row.cells[column], head.dataset.kind) }));
    // Rows without a value stay at the end whichever way the table is sorted.
    keyed.sort((a, b) => (a.key === null) - (b.key === null) || sign * compare(a.key, b.key));
    body.append(...keyed.map((item) => item.row));
  }));
}

// --- heat map: a table of which only the visible part exists when it is large ----------------------------------------
const CELLS = 2500, ROW = 26, COLUMN = 58;

class HeatMap {
  // source: rows, columns (texts); segmentAt: row -> name of the segment that begins there; special (Set of rows);
  // foils (texts or empty); cell(row, column) -> { css, text }; describe(cell element, row, column); pick(column); picked() -> column; name.
  constructor(source) {
    this.source = source;
    this.at = [0, 0];
    this.window = null;
    this.whole = source.rows.length * source.columns.length <= CELLS;
    this.table = make("table", {
      role: "grid", "aria-label": source.name, "aria-rowcount": source.rows.length + 1,
      "aria-colcount": source.columns.length + 1,
    });
    this.box = make("div", { class: "heat" }, this.table);
    const follow = debounceFrame(() => this.render());
    this.box.addEventListener("scroll", follow, { passive: true });
    new ResizeObserver(follow).observe(this.box);
    this.table.addEventListener("keydown", (event) => this.onKey(event));
    this.table.addEventListener("pointerover", (event) => this.tell(event.target));
    this.table.addEventListener("pointerout", tip.hide);
    this.table.addEventListener("focusin", (event) => {
      if (!event.target.matches("td")) return;
      this.at = this.placeOf(event.target);
      this.tell(event.target);
    });
    this.table.addEventListener("focusout", tip.hide);
    this.table.addEventListener("click", (event) => {
      const cell = event.target.closest("td, th[data-column]");
      if (cell && cell.dataset.column) source.pick(Number(cell.dataset.column));
    });
  }
  get label() {
    return this.box.clientWidth < 480 ? 96 : 150;
  }
  placeOf(cell) {
    return [Number(cell.dataset.row), Number(cell.dataset.column)];
  }
  tell(target) {
    const cell = target.closest("td[data-row]");
    if (cell) this.source.describe(cell, ...this.placeOf(cell));
  }
  // What of the table is in sight, with some more around it.
  sight() {
    const { rows, columns } = this.source;
    if (this.whole) return [0, rows.length, 0, columns.length];
    const top = Math.floor(this.box.scrollTop / ROW), left = Math.floor(this.box.scrollLeft / COLUMN);
    const down = Math.ceil((this.box.clientHeight || 400) / ROW), across = Math.ceil((this.box.clientWidth || 800) / COLUMN);
    return [top, Math.min(rows.length, top + down), left, Math.min(columns.length, left + across)];
  }
  render(force) {
    if (!this.box.isConnected) return;
    const { rows, columns } = this.source, [r0, r1, c0, c1] = this.sight(), now = this.window;
    if (!force && now && now[0] <= r0 && now[1] >= r1 && now[2] <= c0 && now[3] >= c1 && now[4] === this.label) return;
    const margin = this.whole ? 0 : 8;
    const w = [Math.max(0, r0 - margin), Math.min(rows.length, r1 + margin),
      Math.max(0, c0 - margin), Math.min(columns.length, c1 + margin), this.label];
    const focused = this.table.contains(document.activeElement);
    this.window = w;
    const widths = [w[4], w[2] * COLUMN, ...Array(w[3] - w[2]).fill(COLUMN), (columns.length - w[3]) * COLUMN];
    this.table.style.width = `${widths.reduce((a, b) => a + b, 0)}px`;
    const shape = make("colgroup", {}, ...widths.map((width) => {
      const column = make("col");
      column.style.width = `${width}px`;
      return column;
    }));
    const body = make("tbody", {}, this.gap(w[0]));
    for (let row = w[0]; row < w[1]; row++) body.append(this.row(row, w));
    body.append(this.gap(rows.length - w[1]));
    this.table.replaceChildren(shape, make("thead", {}, this.head(w)), body);
    const [row, column] = this.at;
    const active = this.cellAt(row, column) || this.table.querySelector("td[data-row]");
    if (active) active.tabIndex = 0;
    if (focused && active) active.focus({ preventScroll: true });
  }
  gap(rows) {
    const line = make("tr", { class: "gap", "aria-hidden": "true" });
    line.style.height = `${rows * ROW}px`;
    return rows ? line : "";
  }
  head(w) {
    const { columns, foils } = this.source;
    const line = make("tr", { "aria-rowindex": 1 }, make("th", { class: "corner" }), make("td", { class: "pad" }));
    for (let column = w[2]; column < w[3]; column++) {
      const foil = foils[column] ? make("small", {}, "vs ", bdi(foils[column])) : null;
      const text = foils[column] ? `${columns[column]} vs ${foils[column]}` : columns[column];
      const picked = column === this.source.picked() ? "on" : null;
      line.append(make("th", { scope: "col", class: picked, "data-column": column, "aria-colindex": column + 2, title: text }, bdi(columns[column]), foil));
    }
    line.append(make("td", { class: "pad" }));
    return line;
  }
  row(row, w) {
    const { rows, segmentAt, special } = this.source, begins = segmentAt.get(row);
    const line = make("tr", { "aria-rowindex": row + 2, class: begins ? "begins" : null });
    line.append(
      make("th", { scope: "row", title: rows[row], class: special.has(row) ? "special" : null }, bdi(rows[row]),
        begins ? make("small", {}, begins) : null),
      make("td", { class: "pad" }));
    for (let column = w[2]; column < w[3]; column++) line.append(this.cell(row, column));
    line.append(make("td", { class: "pad" }));
    return line;
  }
  cell(row, column) {
    const { css: name, text } = this.source.cell(row, column);
    return make("td", { class: name, "data-row": row, "data-column": column, "aria-colindex": column + 2, tabindex: -1 }, text);
  }
  cellAt(row, column) {
    return this.table.querySelector(`td[data-row="${row}"][data-column="${column}"]`);
  }
  // New scores in the cells that exist.
  refresh() {
    for (const head of this.table.querySelectorAll("th[data-column]")) {
      head.classList.toggle("on", Number(head.dataset.column) === this.source.picked());
    }
    for (const cell of this.table.querySelectorAll("td[data-row]")) {
      const { css: name, text } = this.source.cell(...this.placeOf(cell));
      cell.className = name;
      cell.textContent = text;
    }
  }
  onKey(event) {
    const { rows, columns } = this.source, [row, column] = this.at;
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW) - 2);
    const moves = {
      ArrowDown: [row + 1, column], ArrowUp: [row - 1, column], ArrowRight: [row, column + 1], ArrowLeft: [row, column - 1],
      PageDown: [row + page, column], PageUp: [row - page, column], Home: [row, 0], End: [row, columns.length - 1],
    };
    if (event.key === "Enter") this.source.pick(column);
    if (!(event.key in moves) || event.metaKey || event.altKey) return;
    event.preventDefault();
    const [down, across] = event.ctrlKey && event.key === "Home" ? [0, 0]
      : event.ctrlKey && event.key === "End" ? [rows.length - 1, columns.length - 1] : moves[event.key];
    this.go(clamp(down, 0, rows.length - 1), clamp(across, 0, columns.length - 1));
  }
  go(row, column) {
    this.at = [row, column];
    const head = this.table.tHead.offsetHeight, { box } = this;
    if (row * ROW < box.scrollTop) box.scrollTop = row * ROW;
    else if ((row + 1) * ROW + head > box.scrollTop + box.clientHeight) box.scrollTop = (row + 1) * ROW + head - box.clientHeight;
    if (column * COLUMN < box.scrollLeft) box.scrollLeft = column * COLUMN;
    else if ((column + 1) * COLUMN + this.label > box.scrollLeft + box.clientWidth) box.scrollLeft = (column + 1) * COLUMN + this.label - box.clientWidth;
    this.render();
    this.table.querySelectorAll('td[tabindex="0"]').forEach((cell) => { cell.tabIndex = -1; });
    const cell = this.cellAt(row, column);
    cell.tabIndex = 0;
    cell.focus({ preventScroll: true });
  }
}

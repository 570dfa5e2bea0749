"use strict";
(() => {
  const HIDDEN = -128, LEVELS = 20;
  const data = JSON.parse(document.getElementById("data").textContent);

  // --- sorting -----------------------------------------------------------------------------------------------------
  for (const table of document.querySelectorAll("table.board")) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const opposite = { ascending: "descending", descending: "ascending" };
      const order = before ? opposite[before] : head.dataset.first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const keyed = [...body.rows].map((row) => ({ row, key: key(row.cells[column], head.dataset.kind) }));
      // Rows without a value stay at the end whichever way the table is sorted.
      keyed.sort((a, b) => (a.key === null) - (b.key === null) || sign * compare(a.key, b.key));
      body.append(...keyed.map((item) => item.row));
    }));
  }
  function key(cell, kind) {
    if (!cell || cell.colSpan > 1) return null;
    if (kind === "text") return (cell.querySelector("bdi") || cell).textContent.trim() || null;
    return !cell.dataset.sort ? null : Number(cell.dataset.sort);
  }
  function compare(a, b) {
    if (a === null || b === null) return 0;
    return typeof a === "number" ? a - b : a.localeCompare(b);
  }

  // --- scores ------------------------------------------------------------------------------------------------------
  function decode(card) {
    if (!card.bytes) card.bytes = Int8Array.from(atob(card.scores), (char) => char.charCodeAt(0));
    return card.bytes;
  }
  function quantum(card, step, place) {
    return decode(card)[step * card.inputs + place];
  }
  function style(value, evidence) {
    const name = value === HIDDEN ? "x" : (value < 0 ? "n" : "p") + Math.round(Math.abs(value) / 127 * LEVELS);
    return evidence ? name + " r" : name;
  }
  // No more digits than one byte carries; the page's first state is written by the same rule in Python.
  function text(card, step, value) {
    if (value === HIDDEN) return "not visible";
    const limit = card.limits[step], score = limit * value / 127;
    if (!score) return "0";
    const plain = limit >= 1e-3 && limit < 1e5;
    const shown = plain ? score.toFixed(Math.max(0, 1 - Math.floor(Math.log10(limit)))) : score.toExponential(1);
    return (Number(shown) ? shown : shown.replace("-", "")).replaceAll("-", "−");
  }
  function evidence(card, step) {
    return new Set(card.evidence[step] || []);
  }

  // --- examples ----------------------------------------------------------------------------------------------------
  for (const article of document.querySelectorAll(".example")) {
    const example = data[Number(article.dataset.example)];
    const buttons = [...article.querySelectorAll(".steps button")];
    const strip = article.querySelector(".steps");
    const cards = [...article.querySelectorAll("[data-card]")].map((element, index) => ({
      element, numbers: example.cards[index], tokens: [...element.querySelectorAll(".tokens i")],
      top: element.querySelector(".top output"),
    }));
    const outputs = [...article.querySelectorAll(".readout output")];
    const rows = [...article.querySelectorAll(".scores tbody tr")];
    let selected = 0, shown = 0;

    function show(step) {
      if (step === shown) return;
      shown = step;
      buttons.forEach((button, index) => button.classList.toggle("shown", index === step));
      outputs.forEach((output, index) => { output.textContent = rows[index].cells[step + 1].textContent; });
      for (const { numbers, tokens, top } of cards) {
        const marked = evidence(numbers, step), strongest = [];
        tokens.forEach((token, place) => {
          const value = step < numbers.limits.length ? quantum(numbers, step, place) : HIDDEN;
          token.className = style(value, marked.has(place));
          token.removeAttribute("title");
          if (value !== HIDDEN && value !== 0) strongest.push([Math.abs(value), place, value]);
        });
        strongest.sort((a, b) => b[0] - a[0] || a[1] - b[1]);
        const words = strongest.slice(0, 3).flatMap(([, place, value], index) => {
          // Isolated, so that a token written from right to left does not pull its score along.
          const name = document.createElement("bdi");
          name.textContent = tokens[place].textContent;
          return [index ? " · " : "", name, ` ${text(numbers, step, value)}`];
        });
        top.replaceChildren(...(words.length ? words : ["–"]));
      }
    }
    function select(step, focus) {
      buttons.forEach((button, index) => {
        button.setAttribute("aria-checked", String(index === step));
        button.tabIndex = index === step ? 0 : -1;
      });
      selected = step;
      if (focus) buttons[step].focus();
      show(step);
    }

    if (buttons.length) buttons[0].classList.add("shown");
    buttons.forEach((button, step) => {
      button.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") show(step); });
      button.addEventListener("focus", () => select(step));
      button.addEventListener("click", () => select(step));
    });
    strip.addEventListener("pointerleave", () => show(selected));
    strip.addEventListener("keydown", (event) => {
      const last = buttons.length - 1;
      const moves = {
        ArrowRight: selected + 1, ArrowDown: selected + 1, ArrowLeft: selected - 1, ArrowUp: selected - 1, Home: 0, End: last,
      };
      if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const next = moves[event.key];
      select(next > last ? 0 : next < 0 ? last : next, true);
    });

    for (const { element, numbers, tokens } of cards) {
      element.addEventListener("pointerover", (event) => {
        const place = tokens.indexOf(event.target);
        if (place >= 0) event.target.title = `${event.target.textContent}: ${text(numbers, shown, quantum(numbers, shown, place))}`;
      });
      const details = element.querySelector(".matrix");
      details.addEventListener("toggle", () => {
        const place = details.querySelector(".scroll");
        if (details.open && !place.querySelector("table")) place.replaceChildren(matrix(numbers, tokens, buttons));
      });
    }
  }

  function matrix(numbers, tokens, buttons) {
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    const cell = (row, name, content) => {
      const made = document.createElement(name);
      made.textContent = content;
      row.append(made);
      return made;
    };
    cell(head, "th", "");
    const steps = numbers.limits.map((_, step) => step);
    const marked = steps.map((step) => evidence(numbers, step));
    for (const step of steps) {
      const name = buttons[step] ? buttons[step].querySelector("bdi").textContent : String(step);
      const made = cell(head, "th", name);
      made.scope = "col";
      made.title = name;
    }
    const body = table.createTBody();
    tokens.forEach((token, place) => {
      const row = body.insertRow();
      const label = cell(row, "th", token.textContent);
      label.scope = "row";
      label.title = token.textContent;
      for (const step of steps) {
        const value = quantum(numbers, step, place);
        const made = cell(row, "td", value === HIDDEN ? "" : text(numbers, step, value));
        made.className = style(value, marked[step].has(place));
      }
    });
    return table;
  }
})();

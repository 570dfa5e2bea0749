// --- one attribution: its text and its heat map ----------------------------------------------------------------------
class Card {
  constructor(explorer, example, view) {
    Object.assign(this, { explorer, example, view, tokens: example.tokens[view.tokens], mode: null, map: null });
    this.steps = example.steps.length;
    this.inputs = this.tokens.texts.length;
    this.chosen = explorer.chosenOf(view);
    this.scaleBar = make("div", { class: "scale" });
    this.body = make("div", { class: "body" });
    this.strongest = make("p", { class: "strongest" });
    const unit = [view.function, ...view.reduced].join(", ");
    this.element = make("section", { class: "card", "data-card": view.label, "aria-label": view.label },
      make("h3", {}, make("bdi", {}, breakable(view.label)), " ", make("span", { class: "unit" }, breakable(unit))),
      this.scaleBar, view.axes.length ? this.sliders() : null, this.body, this.strongest, this.metrics());
    this.load();
  }
  sliders() {
    const box = make("div", { class: "sliders" });
    for (const axis of this.view.axes) {
      const output = make("output"), last = axis.start + axis.size - 1;
      const range = make("input", { type: "range", min: 0, max: axis.size, step: 1, "data-axis": axis.name });
      const say = () => {
        const index = this.chosen[axis.name];
        const text = index === "all" ? `mean of ${axis.start}–${last}` : `${axis.start + index}`;
        output.textContent = text;
        range.setAttribute("aria-valuetext", `${axis.name} ${text}`);
      };
      range.value = this.chosen[axis.name] === "all" ? 0 : this.chosen[axis.name] + 1;
      range.addEventListener("input", () => {
        this.chosen[axis.name] = Number(range.value) ? Number(range.value) - 1 : "all";
        say();
        this.load();
        this.repaint();
      });
      say();
      box.append(make("label", {}, make("span", {}, axis.name), range, output));
    }
    return box;
  }
  metrics() {
    if (!this.view.metrics.length) return null;
    const items = this.view.metrics.map(([name, text]) => make("li", {}, breakable(name), " ", make("b", {}, text)));
    return make("details", { class: "metrics" }, make("summary", {}, "Metrics of this example"), make("ul", {}, ...items));
  }
  load() {
    const all = this.view.axes.every((axis) => this.chosen[axis.name] === "all");
    this.values = matrixOf(this.view, this.steps, this.inputs, this.chosen);
    this.kind = all ? this.view.matrix.kind : this.view.slices.kind;
    this.signed = this.values.some((value) => value < 0);
    this.overall = this.explorer.fixedScale || scaleOf(this.values, 0, this.values.length, this.signed);
    this.stepScales = new Map();
    this.exponent = exponentOf(Math.max(Math.abs(this.overall.low), Math.abs(this.overall.high)));
  }
  scale(step) {
    if (this.explorer.fixedScale || this.explorer.relative === "all") return this.overall;
    if (!this.stepScales.has(step)) {
      this.stepScales.set(step, scaleOf(this.values, step * this.inputs, (step + 1) * this.inputs, this.signed));
    }
    return this.stepScales.get(step);
  }
  at(step, place) {
    return this.values[step * this.inputs + place];
  }
  isEvidence(step, place) {
    return Boolean(this.view.evidence) && this.view.evidence[step].includes(place);
  }
  describe(target, step, place) {
    const title = [bdi(this.tokens.texts[place]), " → ", bdi(this.example.steps[step])];
    const where = this.view.axes.filter((axis) => this.chosen[axis.name] !== "all")
      .map((axis) => `${axis.name} ${axis.start + this.chosen[axis.name]}`).join(", ");
    const notes = [where, this.isEvidence(step, place) ? "evidence according to the data" : ""].filter(Boolean).join(" · ");
    tip.show(target, title, exact(this.at(step, place), this.kind), notes);
  }
  // --- modes
  show(mode) {
    this.mode = mode;
    this.body.replaceChildren(mode === "heatmap" ? this.heatmap() : this.text());
    this.repaint();
  }
  repaint() {
    if (this.mode === "heatmap") {
      if (this.map.window) this.map.refresh();
      else this.map.render(true);
    }
    this.classes = [];
    this.paint(this.explorer.shown);
  }
  text() {
    const { texts, segments, special, breaks } = this.tokens;
    const names = new Map(segments.map(([name, place]) => [place, name])), unusual = new Set(special), ends = new Set(breaks);
    const flow = make("div", { class: "flow", tabindex: 0, role: "region", "aria-label": `Text for ${this.view.label}` });
    let line = null;
    this.chips = texts.map((text, place) => {
      if (names.has(place)) {
        line = make("div", { class: "tokens" }, make("b", {}, names.get(place)));
        flow.append(line);
      }
      const chip = make("i", { "data-place": place }, text);
      if (unusual.has(place)) chip.dataset.special = "";
      line.append(chip);
      if (ends.has(place)) line.append(make("span", { class: "break" }));
      return chip;
    });
    flow.addEventListener("pointerover", (event) => {
      const chip = event.target.closest("i");
      if (chip) this.describe(chip, this.explorer.shown, Number(chip.dataset.place));
    });
    flow.addEventListener("pointerout", tip.hide);
    return flow;
  }
  heatmap() {
    const { texts, segments, special } = this.tokens;
    this.map = new HeatMap({
      name: `Scores of ${this.view.label}`, rows: texts, columns: this.example.steps, foils: this.example.foils,
      segmentAt: new Map(segments.map(([name, place]) => [place, name])), special: new Set(special),
      cell: (row, column) => {
        const value = this.at(column, row), scale = this.scale(column);
        const name = css(value, scale) + (this.isEvidence(column, row) ? " r" : "");
        return { css: name, text: short(value, Math.max(Math.abs(this.overall.low), this.overall.high), this.exponent) };
      },
      describe: (cell, row, column) => this.describe(cell, column, row),
      pick: (column) => this.explorer.pin(column),
      picked: () => this.explorer.pinned,
    });
    return this.map.box;
  }
  // The evidence of a step.
  paint(step) {
    const scale = this.scale(step);
    if (this.mode === "text") {
      const marked = new Set(this.view.evidence ? this.view.evidence[step] : []);
      this.chips.forEach((chip, place) => {
        const name = css(this.at(step, place), scale) + (marked.has(place) ? " r" : "");
        if (this.classes[place] !== name) chip.className = this.classes[place] = name;
      });
    }
    this.showScale(scale);
    this.showStrongest(step);
  }
  showScale(scale) {
    const whole = this.mode === "heatmap" && this.explorer.relative === "step" && !this.explorer.fixedScale;
    const low = whole ? "−max" : compact(scale.low), high = whole ? "+max of the step" : compact(scale.high);
    const levels = scale.low < 0 ? [...Array(LEVELS).keys()].map((i) => `n${LEVELS - i}`) : [];
    const bar = make("span", { class: "ramp" }, ...[...levels, ...Array.from({ length: LEVELS + 1 }, (_, i) => `p${i}`)]
      .filter((_, i) => i % 2 === 0).map((name) => make("span", { class: name })));
    const units = this.mode === "heatmap" && this.exponent ? ` · cells in units of 1e${this.exponent}` : "";
    this.scaleBar.replaceChildren(make("span", {}, scale.low < 0 ? low : compact(Math.max(0, scale.low))), bar, make("span", {}, high + units));
  }
  strongestOf(step, count) {
    const row = this.values.subarray(step * this.inputs, (step + 1) * this.inputs), found = [];
    row.forEach((value, place) => {
      if (!value || Number.isNaN(value)) return;
      if (found.length === count && Math.abs(value) <= Math.abs(found[count - 1][1])) return;
      found.push([place, value]);
      found.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]) || a[0] - b[0]);
      found.length = Math.min(found.length, count);
    });
    return found;
  }
  showStrongest(step) {
    const whole = this.strongestOf(step, 5);
    const found = whole.filter(([, value]) => Math.abs(value) >= Math.abs(whole[0][1]) / 100);
    const items = found.map(([place, value]) => {
      const button = make("button", { type: "button", class: "word" }, bdi(this.tokens.texts[place]), " ", make("b", {}, compact(value)));
      button.addEventListener("click", () => this.find(step, place));
      return button;
    });
    this.strongest.replaceChildren(make("span", {}, "Strongest: "), ...(items.length ? items : ["–"]));
  }
  // Where a token is in a text or heat map that does not show all of itself.
  find(step, place) {
    if (this.mode === "heatmap") {
      this.map.go(place, step);
      return;
    }
    const flow = this.body.firstElementChild, chip = this.chips[place];
    if (flow.scrollHeight > flow.clientHeight) flow.scrollTop = chip.offsetTop - flow.offsetTop - flow.clientHeight / 2;
    chip.classList.add("found");
    this.classes[place] = null;
    setTimeout(() => chip.classList.remove("found"), 1200);
  }
}

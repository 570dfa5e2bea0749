// --- explorer: an example, its generated tokens, and the cards of its attributions -----------------------------------
const MODES = { text: "Text", heatmap: "Heat map", steps: "Step scores" };
const ALL = 8, SOME = 6;  // so many methods are all shown at first; of more, so many

class Explorer {
  constructor(root, examples, options) {
    Object.assign(this, { root, examples, options, choices: new Map(), shown: 0, pinned: 0, cards: [], charts: [] });
    this.modes = root.dataset.explorer.split(" ");
    this.relatives = { text: "step", heatmap: "all" };
    this.fixedScale = options.scale || null;
    this.score = options.score || null;
    const labels = [...new Set(examples.flatMap((example) => [...example.views.map((v) => v.label), ...example.missing.map(([name]) => name)]))];
    this.labels = labels;
    this.wanted = new Set(labels.slice(0, labels.length > ALL ? SOME : ALL));
    this.live = make("p", { class: "unseen", "aria-live": "polite" });
    this.texts = make("dl", { class: "texts" });
    this.strip = make("div", { class: "steps", role: "radiogroup" });
    this.pick = make("div", { class: "pick" });
    this.panel = make("div", this.modes.length > 1 ? { role: "tabpanel", "aria-label": "View" } : {});
    this.legend = make("div", { class: "legend" });
    this.bar = make("div", { class: "bar" }, this.chooser(), this.tabs(), this.relativeChoice(), this.methodChoice());
    root.replaceChildren(this.bar, this.texts, this.pick, this.legend, this.panel, this.live);
    this.mode = this.modes.includes(options.mode) ? options.mode : this.modes[0];
    this.selectMode(Math.max(0, this.modes.indexOf(this.mode)));
    this.open(0);
    this.strip.addEventListener("pointerleave", () => this.light(this.pinned));
    this.strip.addEventListener("keydown", (event) => this.onKey(event));
    addEventListener("resize", debounceFrame(() => { if (this.mode === "steps" && root.offsetWidth) this.fill(); }));
  }
  get example() {
    return this.examples[this.index];
  }
  get relative() {
    return this.relatives[this.mode] || "step";
  }
  // Sliders keep their places from example to example.
  chosenOf(view) {
    if (!this.choices.has(view.label)) this.choices.set(view.label, {});
    const chosen = this.choices.get(view.label);
    for (const axis of view.axes) {
      const known = chosen[axis.name];
      if (known === undefined || (known !== "all" && known >= axis.size)) chosen[axis.name] = "all";
    }
    return chosen;
  }
  // --- controls
  chooser() {
    if (this.examples.length < 2) return null;
    const shorten = (text) => (text.length > 60 ? `${text.slice(0, 58)}…` : text);
    this.select = make("select", { "aria-label": "Example" }, ...this.examples.map((example, i) =>
      make("option", { value: i }, `${example.name}: ${shorten(example.input || example.output)}`)));
    const step = (by, name, sign) => {
      const button = make("button", { type: "button", "aria-label": name }, sign);
      button.addEventListener("click", () => this.open((this.index + by + this.examples.length) % this.examples.length));
      return button;
    };
    this.select.addEventListener("change", () => this.open(Number(this.select.value)));
    return make("div", { class: "chooser" }, step(-1, "Previous example", "◀"), this.select, step(1, "Next example", "▶"));
  }
  tabs() {
    const tabs = this.modes.map((mode) => make("button", { type: "button", role: "tab", "data-mode": mode }, MODES[mode]));
    this.selectMode = tabList(tabs, (index) => this.setMode(this.modes[index]));
    return tabs.length > 1 ? make("div", { class: "tabs small", role: "tablist", "aria-label": "View" }, ...tabs) : null;
  }
  relativeChoice() {
    if (this.fixedScale || this.modes[0] === "steps") return null;
    this.relativeSelect = make("select", {}, make("option", { value: "step" }, "each token's largest score"), make("option", { value: "all" }, "the largest score of all"));
    this.relativeSelect.addEventListener("change", () => {
      this.relatives[this.mode] = this.relativeSelect.value;
      this.cards.forEach((card) => card.repaint());
    });
    this.relativeLabel = make("label", { class: "relative" }, make("span", {}, "Colours relative to "), this.relativeSelect);
    return this.relativeLabel;
  }
  methodChoice() {
    if (this.labels.length < 2 || this.modes[0] === "steps") return null;
    const summary = make("summary", {});
    const say = () => { summary.textContent = `Methods: ${this.wanted.size} of ${this.labels.length}`; };
    const boxes = this.labels.map((label) => {
      const box = make("input", { type: "checkbox", checked: this.wanted.has(label) });
      box.addEventListener("change", () => {
        if (box.checked) this.wanted.add(label);
        else this.wanted.delete(label);
        say();
        this.fill();
      });
      return make("label", {}, box, " ", make("span", {}, breakable(label)));
    });
    const all = (checked, text) => {
      const button = make("button", { type: "button", class: "quiet" }, text);
      button.addEventListener("click", () => {
        this.wanted = new Set(checked ? this.labels : []);
        boxes.forEach((box) => { box.querySelector("input").checked = checked; });
        say();
        this.fill();
      });
      return button;
    };
    say();
    const details = make("details", { class: "methods" }, summary,
      make("div", { class: "menu" }, make("div", { class: "both" }, all(true, "All"), all(false, "None")), ...boxes));
    summary.addEventListener("click", (event) => {
      event.preventDefault();  // to be placed before it is seen
      details.open = !details.open;
      const menu = details.querySelector(".menu"), edge = document.documentElement.clientWidth - 8;
      menu.style.left = "0";
      menu.style.left = `${Math.min(0, edge - menu.getBoundingClientRect().right)}px`;
    });
    // Like a menu: it goes when one turns elsewhere.
    document.addEventListener("pointerdown", (event) => { if (!details.contains(event.target)) details.open = false; });
    details.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      details.open = false;
      summary.focus();
    });
    return details;
  }
  // --- example
  open(index) {
    this.index = index;
    const { example } = this;
    if (this.select) this.select.value = index;
    const texts = [["Input", example.input], ["Output", example.output], ["Foil", example.foil]];
    this.texts.replaceChildren(...texts.filter(([, text]) => text).map(([name, text]) =>
      make("div", {}, make("dt", {}, name), make("dd", { dir: "auto", tabindex: text.length > 600 ? 0 : null }, text))));
    // Where there is a foil, the first token that differs from it.
    this.pinned = this.shown = Math.max(0, example.foils.findIndex(Boolean));
    this.buildStrip();
    this.fill();
  }
  buildStrip() {
    const { example } = this, known = example.scores.map((score) => score.name);
    this.strip.setAttribute("aria-label", `${example.stepsAre} of ${example.name}`);
    this.buttons = example.steps.map((text, step) => {
      const foil = example.foils[step] ? make("small", { class: "foil" }, "vs ", bdi(example.foils[step])) : null;
      const button = make("button", { type: "button", role: "radio", "aria-checked": "false", tabindex: -1 }, bdi(text), foil, make("small", { class: "value" }));
      button.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") this.light(step); });
      button.addEventListener("focus", () => this.pin(step));
      button.addEventListener("click", () => this.pin(step));
      return button;
    });
    this.strip.replaceChildren(...this.buttons);
    const select = make("select", {}, ...known.map((name) => make("option", { value: name }, name)));
    const preferred = [this.score, "probability"].find((name) => known.includes(name));
    if (preferred) select.value = preferred;
    select.addEventListener("change", () => { this.score = select.value; this.showScores(select.value); });
    const hidden = example.hidden ? make("span", {}, `${example.hidden} further ones are not shown, to keep the page small.`) : null;
    const choice = known.length ? make("label", {}, "step score ", select) : null;
    this.pick.replaceChildren(make("div", { class: "head" }, make("h3", {}, example.stepsAre), choice, hidden), this.strip);
    this.showScores(select.value);
    this.pin(this.pinned);
  }
  showScores(name) {
    const score = this.example.scores.find((one) => one.name === name);
    const known = score ? score.values.filter((value) => value !== null) : [];
    const low = Math.min(0, ...known), high = Math.max(...known, 0);
    this.buttons.forEach((button, step) => {
      const value = score ? score.values[step] : null, small = button.querySelector(".value");
      small.textContent = score ? compact(value) : "";
      small.style.setProperty("--part", value === null || high === low ? 0 : (value - low) / (high - low));
      small.hidden = !score;
    });
  }
  setMode(mode) {
    this.mode = mode;
    if (this.relativeSelect) {
      this.relativeLabel.hidden = mode === "steps";
      this.relativeSelect.value = this.relative;
    }
    const methods = this.bar.querySelector(".methods");
    if (methods) methods.hidden = mode === "steps";
    this.fill();
  }
  fill() {
    if (this.index === undefined) return;
    const { example } = this;
    tip.hide();
    this.cards = [];
    this.charts = [];
    this.pick.hidden = this.mode === "steps";
    if (this.mode === "steps") this.fillCharts();
    else {
      const views = example.views.filter((view) => this.wanted.has(view.label));
      this.cards = views.map((view) => new Card(this, example, view));
      const missing = example.missing.filter(([name]) => this.wanted.has(name)).map(([name, why]) =>
        make("section", { class: "card failed" }, make("h3", {}, bdi(name)), make("p", { class: "hint" }, why)));
      const cards = [...this.cards.map((card) => card.element), ...missing];
      this.panel.replaceChildren(make("div", { class: `cards ${this.mode}${cards.length === 1 ? " one" : ""}` }, ...(cards.length ? cards : [make("p", { class: "hint" }, "No method is chosen.")])));
      this.cards.forEach((card) => card.show(this.mode));
    }
    this.showLegend();
    this.light(this.pinned);
  }
  fillCharts() {
    const { example } = this;
    if (!example.scores.length) {
      this.panel.replaceChildren(make("p", { class: "hint" }, "No step scores were recorded: name some with step_scores=."));
      return;
    }
    const room = this.panel.clientWidth || 600, columns = Math.max(1, Math.floor(room / 460));
    const width = Math.max(example.steps.length * 7, room / columns - 40);
    const boxes = example.scores.map((score) => {
      const made = chart(score, example.steps, Math.min(width, 4000), (step, mark) => {
        this.light(step === null ? this.pinned : step);
        if (step === null) tip.hide();
        else tip.show(mark, [bdi(example.steps[step])], score.values[step] === null ? "–" : `${exact(score.values[step], "f4")} ${score.unit}`);
      }, (step) => this.pin(step));
      this.charts.push(made);
      const title = make("figcaption", {}, make("b", {}, breakable(score.name)), score.unit ? ` (${score.unit})` : "");
      return make("figure", { class: "chart" }, title, make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${score.name} as a line` }, made.picture));
    });
    this.panel.replaceChildren(make("div", { class: "charts" }, ...boxes), this.scoreTable());
  }
  scoreTable() {
    const { example } = this, head = make("tr", {}, make("th", { scope: "col" }, "step score"));
    example.steps.forEach((text) => head.append(make("th", { scope: "col", class: "number" }, bdi(text))));
    const rows = example.scores.map((score) => make("tr", {}, make("th", { scope: "row" }, score.name, score.unit ? make("span", { class: "unit" }, ` (${score.unit})`) : null),
      ...score.values.map((value) => make("td", { class: "number" }, compact(value)))));
    return make("details", { class: "scores" }, make("summary", {}, "As a table"),
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Step scores as a table" },
        make("table", { class: "plain" }, make("thead", {}, head), make("tbody", {}, ...rows))));
  }
  showLegend() {
    const sample = (name, text, note) => make("span", {}, make("i", { class: name }, text), note);
    const views = this.example.views;
    this.legend.hidden = this.mode === "steps";
    this.legend.replaceChildren(
      sample("p14", "+", "positive score"), ...(this.cards.some((card) => card.signed) ? [sample("n14", "−", "negative score")] : []),
      sample("p0", "0", "no score"), sample("x", "…", "not visible to the token"),
      ...(views.some((view) => view.evidence) ? [sample("p0 r", "a", "evidence according to the data")] : []));
  }
  // --- steps
  light(step) {
    this.buttons.forEach((button, index) => button.classList.toggle("shown", index === step));
    const before = this.shown;
    this.shown = step;
    this.charts.forEach((made) => made.mark(step));
    if (before !== step) this.cards.forEach((card) => card.paint(step));
  }
  pin(step) {
    this.buttons.forEach((button, index) => {
      button.setAttribute("aria-checked", String(index === step));
      button.tabIndex = index === step ? 0 : -1;
    });
    const changed = this.pinned !== step;
    this.pinned = step;
    this.light(step);
    if (!changed) return;
    if (this.mode === "heatmap") this.cards.forEach((card) => card.repaint());
    const card = this.cards[0];
    if (card) this.live.textContent = `${this.example.steps[step]}: strongest by ${card.view.label} ` +
      card.strongestOf(step, 3).map(([place, value]) => `${card.tokens.texts[place]} ${compact(value)}`).join(", ");
  }
  onKey(event) {
    const last = this.buttons.length - 1, here = this.pinned;
    const moves = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: last };
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const next = moves[event.key];
    this.buttons[next > last ? 0 : next < 0 ? last : next].focus();
  }
}
const data = JSON.parse(document.getElementById("data").textContent);
for (const root of document.querySelectorAll("[data-explorer]")) {
  if (data.examples.length) new Explorer(root, data.examples, data.options);
  else root.replaceChildren(make("p", { class: "hint" }, "There are no attributions to show."));
}

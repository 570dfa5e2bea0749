// --- context reliance: the chosen sensitive token lights up its context ---------------------------------------------
for (const section of document.querySelectorAll("[data-case]")) {
  const all = JSON.parse(section.querySelector("script").textContent);
  const buttons = [...section.querySelectorAll("[data-cues]")];
  const choose = (button) => {
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    const cues = all[Number(button.dataset.cues)];
    for (const line of section.querySelectorAll("[data-context]")) {
      const name = line.dataset.context, marked = new Set(cues.marked[name]);
      [...line.children].forEach((token, place) => {
        const level = cues.levels[name][place] || 0;
        token.className = `${level < 0 ? "n" : "p"}${Math.abs(level)}${marked.has(place) ? " cue" : ""}`;
        token.title = cues.scores[name][place] ?? "";
      });
    }
  };
  for (const button of buttons) {
    button.addEventListener("click", () => choose(button));
    button.addEventListener("focus", () => choose(button));
    button.addEventListener("pointerenter", () => choose(button));
  }
  if (buttons.length) choose(buttons.find((button) => button.dataset.cues === "0") || buttons[0]);
}

// --- one tooltip for everything that has exact values ----------------------------------------------------------------
const tip = (() => {
  const element = make("div", { class: "tip", role: "tooltip", id: "tip", hidden: true });
  document.body.append(element);
  let described = null;
  function hide() {
    element.hidden = true;
    if (described) described.removeAttribute("aria-describedby");
    described = null;
  }
  function show(target, title, value, note) {
    hide();
    described = target;
    target.setAttribute("aria-describedby", element.id);
    element.replaceChildren(make("div", {}, ...title), make("strong", {}, value), ...(note ? [make("small", {}, note)] : []));
    element.hidden = false;
    const at = target.getBoundingClientRect(), own = element.getBoundingClientRect();
    const above = at.top - own.height - 8;
    const left = clamp(at.left + at.width / 2 - own.width / 2, 6, document.documentElement.clientWidth - own.width - 6);
    element.style.left = `${left}px`;
    element.style.top = `${above > 4 ? above : at.bottom + 8}px`;
  }
  addEventListener("scroll", hide, { capture: true, passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  return { show, hide };
})();

// Elements without markup in strings: texts of tokens are never read as HTML.
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
// Isolated, so that a token written from right to left does not pull what follows into its direction.
function bdi(text) {
  return make("bdi", {}, text);
}
// A name that may break after an underscore.
function breakable(name) {
  const parts = name.split("_");
  return make("bdi", {}, ...parts.flatMap((part, i) => (i ? ["_", document.createElement("wbr"), part] : [part])));
}
function clamp(value, low, high) {
  return Math.max(low, Math.min(high, value));
}
function debounceFrame(action) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; action(); });
  };
}

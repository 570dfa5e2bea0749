// --- light and dark: what the system wants until somebody decides ----------------------------------------------------
const theme = (() => {
  const root = document.documentElement, key = "attriflow-theme";
  const button = document.querySelector("[data-theme-toggle]");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const frames = () => [...document.querySelectorAll("iframe")].map((frame) => frame.contentWindow);
  function current() {
    return root.dataset.theme || (system.matches ? "dark" : "light");
  }
  function show() {
    if (!button) return;
    const other = current() === "dark" ? "light" : "dark";
    button.hidden = false;
    button.textContent = other === "dark" ? "☾ Dark" : "☀ Light";
    button.setAttribute("aria-label", `Switch to ${other} colours`);
  }
  function set(name) {
    root.dataset.theme = name;
    show();
    tell();
  }
  function tell() {
    frames().forEach((frame) => frame.postMessage({ attriflowTheme: current() }, "*"));
  }
  function remembered() {
    try { return localStorage.getItem(key); } catch { return null; }  // not in sandboxed frames
  }
  const known = remembered();
  if (known === "dark" || known === "light") root.dataset.theme = known;
  if (button) {
    button.addEventListener("click", () => {
      set(current() === "dark" ? "light" : "dark");
      try { localStorage.setItem(key, current()); } catch { /* as above */ }
    });
  }
  // In a page of such pages, its button is for all.
  addEventListener("message", (event) => {
    const name = event.data && event.data.attriflowTheme;
    if (event.source !== parent || (name !== "dark" && name !== "light")) return;
    set(name);
    if (button) button.hidden = true;
  });
  if (parent !== window) {
    document.body.classList.add("framed");  // less space around it
    // A page around this one may want to give it the room that it takes.
    const size = () => parent.postMessage({ attriflowHeight: Math.ceil(root.getBoundingClientRect().height) }, "*");
    new ResizeObserver(size).observe(root);
  }
  system.addEventListener("change", show);
  show();
  return { tell };
})();

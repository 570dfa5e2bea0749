// The pages in frames take the app's colours and get the height that they need.
(() => {
  const LOWEST = 420, HIGHEST = 20000;
  const all = () => [...document.querySelectorAll(".attriflow-page iframe")];
  const tell = (frame) => {
    const name = document.body.classList.contains("dark") ? "dark" : "light";
    frame.contentWindow.postMessage({ attriflowTheme: name }, "*");
  };
  document.addEventListener("load", (event) => { if (all().includes(event.target)) tell(event.target); }, true);
  addEventListener("message", (event) => {
    const height = event.data && event.data.attriflowHeight;
    const frame = Number.isFinite(height) && all().find((one) => one.contentWindow === event.source);
    if (frame) frame.style.height = `${Math.min(HIGHEST, Math.max(LOWEST, height))}px`;
  });
  addEventListener("DOMContentLoaded", () => {
    new MutationObserver(() => all().forEach(tell)).observe(document.body, { attributeFilter: ["class"] });
  });
})();

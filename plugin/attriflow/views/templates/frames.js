// --- whole pages as tabs ---------------------------------------------------------------------------------------------
(() => {
  const tabs = [...document.querySelectorAll("[data-frame]")], frames = [...document.querySelectorAll("iframe")];
  document.body.classList.add("frames");
  frames.forEach((frame) => frame.addEventListener("load", theme.tell));
  tabList(tabs, (index) => frames.forEach((frame, i) => { frame.hidden = i !== index; }))(0, false);
})();

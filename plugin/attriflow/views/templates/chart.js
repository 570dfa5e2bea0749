// --- step scores as lines --------------------------------------------------------------------------------------------
function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
// Round numbers from below the smallest to above the largest value.
function ticks(low, high) {
  const span = high - low || Math.abs(high) || 1, power = 10 ** Math.floor(Math.log10(span / 3));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => span / size <= 4);
  const first = Math.floor(low / step + 1e-9), last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}
// One score over the generated tokens; onStep(step, its mark) while pointed at, onStep(null) afterwards.
function chart(score, steps, width, onStep, onPick) {
  const known = score.values.filter((value) => value !== null), height = 170, left = 52, right = 14, top = 12, bottom = 28;
  const wide = Math.max(width, 240), gap = steps.length > 1 ? (wide - left - right - 24) / (steps.length - 1) : 0;
  const marks = ticks(Math.min(0, ...known), Math.max(0, ...known)), low = marks[0], high = marks[marks.length - 1];
  const x = (step) => left + 12 + (steps.length > 1 ? step * gap : (wide - left - right - 24) / 2);
  const y = (value) => top + (1 - (value - low) / (high - low)) * (height - top - bottom);
  const picture = svg("svg", {
    viewBox: `0 0 ${wide} ${height}`, width: wide, height, role: "img",
    "aria-label": `${score.name} at ${steps.length} steps, from ${compact(Math.min(...known))} to ${compact(Math.max(...known))}`,
  });
  for (const mark of marks) {
    picture.append(
      svg("line", { class: "grid", x1: left, x2: wide - right, y1: y(mark), y2: y(mark) }),
      svg("text", { class: "tick", x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, compact(mark)));
  }
  const every = Math.ceil(44 / (gap || 44));
  for (let step = 0; step < steps.length; step += every) {
    const name = steps[step], room = Math.max(3, Math.floor((every * (gap || wide)) / 7.2));
    const shown = name.length > room ? `${name.slice(0, room - 1)}…` : name, half = 3.6 * shown.length;
    const [place, anchor] = x(step) + half > wide ? [wide - 2, "end"] : x(step) < half ? [2, "start"] : [x(step), "middle"];
    picture.append(svg("text", { class: "tick", x: place, y: height - bottom + 18, "text-anchor": anchor }, shown));
  }
  const marker = svg("line", { class: "marker", x1: 0, x2: 0, y1: top, y2: height - bottom });
  let path = "", pen = "M";
  score.values.forEach((value, step) => {
    if (value === null) { pen = "M"; return; }
    path += `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
  });
  picture.append(marker, svg("path", { class: "line", d: path }));
  const dots = steps.length <= 120 ? score.values.map((value, step) =>
    value === null ? null : svg("circle", { class: "dot", cx: x(step), cy: y(value), r: 3.5 })) : [];
  picture.append(...dots.filter(Boolean));
  const nearest = (event) => {
    const at = picture.getBoundingClientRect();
    const place = ((event.clientX - at.left) / at.width) * wide - left - 12;
    return clamp(gap ? Math.round(place / gap) : 0, 0, steps.length - 1);
  };
  picture.addEventListener("pointermove", (event) => {
    const step = nearest(event);
    mark(step);
    onStep(step, dots[step] || marker);
  });
  picture.addEventListener("pointerleave", () => onStep(null));
  picture.addEventListener("click", (event) => onPick(nearest(event)));
  function mark(step) {
    marker.setAttribute("x1", x(step));
    marker.setAttribute("x2", x(step));
    dots.forEach((dot, i) => { if (dot) dot.classList.toggle("shown", i === step); });
  }
  return { picture, mark };
}

// --- scores: from text to numbers, colours and back to text ----------------------------------------------------------
const HIDDEN = -128;
const HALVES = new Float32Array(65536);
for (let bits = 0; bits < 65536; bits++) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits & 32768 ? -1 : 1;
  if (exponent === 31) HALVES[bits] = fraction ? NaN : sign * Infinity;
  else HALVES[bits] = sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}
function bytes(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out.buffer;
}
// Numbers as Python's encoding.py wrote them; `width` is the length of a row.
function decode(encoded, width) {
  if (encoded.values) return encoded.values;
  const data = bytes(encoded.data);
  if (encoded.kind === "f4") encoded.values = new Float32Array(data);
  else if (encoded.kind === "f2") encoded.values = Float32Array.from(new Uint16Array(data), (bits) => HALVES[bits] * encoded.scale);
  else {
    const limits = new Float32Array(bytes(encoded.limits));
    encoded.values = Float32Array.from(new Int8Array(data), (value, i) =>
      (value === HIDDEN ? NaN : (value / 127) * limits[Math.floor(i / width)]));
  }
  encoded.data = null;
  return encoded.values;
}
// Scores [step, input] of chosen layers and heads; "all" is their mean.
function matrixOf(view, steps, inputs, chosen) {
  const indices = view.axes.map((axis) => chosen[axis.name] ?? "all");
  if (indices.every((index) => index === "all")) return decode(view.matrix, inputs);
  const whole = decode(view.slices, inputs), cells = steps * inputs;
  let starts = [0], count = 1;
  view.axes.forEach((axis, place) => {
    const all = indices[place] === "all";
    const found = all ? Array.from({ length: axis.size }, (_, i) => i) : [indices[place]];
    starts = starts.flatMap((start) => found.map((i) => start * axis.size + i));
    count *= found.length;
  });
  const out = new Float32Array(cells);
  for (const start of starts) for (let i = 0; i < cells; i++) out[i] += whole[start * cells + i];
  for (let i = 0; i < cells; i++) out[i] /= count;
  return out;
}
// The scale of a range of scores: up to the largest magnitude, on both sides of 0 if `signed`.
function scaleOf(values, from, to, signed) {
  let limit = 0;
  for (let i = from; i < to; i++) {
    const magnitude = Math.abs(values[i]);
    if (magnitude > limit && magnitude !== Infinity) limit = magnitude;
  }
  return { low: signed ? -limit : 0, high: limit };
}
// -1 the strongest blue, 0 no colour, 1 the strongest orange; as in colors.py.
function share(value, scale) {
  const part = (distance, whole) => (distance > 0 && whole > 0 ? Math.min(distance / whole, 1) : 0);
  if (value >= 0) {
    const base = Math.max(0, scale.low);
    return part(value - base, scale.high - base);
  }
  const base = Math.min(0, scale.high);
  return -part(base - value, base - scale.low);
}
function css(value, scale) {
  if (Number.isNaN(value)) return "x";
  const place = share(value, scale), level = Math.round(Math.abs(place) * LEVELS);
  return (place < 0 && level ? "n" : "p") + level;
}
function minus(text) {
  return text.replace(/^-(?=[0.]+$)/, "").replaceAll("-", "−");
}
// Power of ten taken out of numbers that would be written as 0.000 or very long.
function exponentOf(limit) {
  return limit === 0 || (limit >= 0.01 && limit < 1000) ? 0 : Math.floor(Math.log10(limit));
}
function short(value, limit, exponent) {
  if (Number.isNaN(value)) return "";
  const largest = limit / 10 ** exponent;
  return minus((value / 10 ** exponent).toFixed(largest >= 100 ? 1 : largest >= 10 ? 2 : 3));
}
const DIGITS = { f4: 7, f2: 4, i1: 2 };
function exact(value, kind) {
  if (Number.isNaN(value)) return "not visible to this step";
  const text = minus(String(Number(value.toPrecision(DIGITS[kind]))));
  return kind === "f4" ? text : `≈ ${text}`;
}
function compact(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  return minus(size && (size < 1e-3 || size >= 1e5) ? value.toExponential(1) : String(Number(value.toPrecision(3))));
}

"""Debian's Chromium, driven by playwright: what all tests in a browser share."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

in_browser = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: `make browser` does it as root on Debian"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
]

# Of every text that can be seen: whether its contrast with what is behind it is what it needs (WCAG AA).
_CONTRASTS = """() => {
    const parse = (text) => {
        const c = (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number), unit = text.startsWith("color(srgb") ? 255 : 1;
        return [c[0] * unit, c[1] * unit, c[2] * unit, c.length > 3 ? c[3] : 1];
    };
    const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
    const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const luminance = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
    const behind = (element) => {
        const layers = [];
        for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
        return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
    };
    const hidden = ".unseen, .skip, noscript, script, option", poor = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || !element.checkVisibility({ checkVisibilityCSS: true }) || element.closest(hidden)) continue;
        const style = getComputedStyle(element), under = behind(element);
        const ink = over(parse(element instanceof SVGElement ? style.fill : style.color), under);
        const [dark, light] = [luminance(under), luminance(ink)].sort((a, b) => a - b);
        const ratio = (light + 0.05) / (dark + 0.05), needed = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
        const text = element.textContent.trim().slice(0, 30);
        if (ratio < needed) poor.push(`${element.tagName}.${element.className} "${text}": ${ratio.toFixed(2)}`);
    }
    return poor;
}"""

# Controls that a screen reader could not name.
_NAMELESS = """() => {
    const named = (e) => e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.textContent.trim()
        || (e.labels && [...e.labels].some((label) => label.textContent.trim()));
    const kinds = "button, select, input, summary, [role=tab], [role=radiogroup], [role=grid], div[tabindex='0']";
    const found = [...document.querySelectorAll(kinds)].filter((e) => e.checkVisibility() && !named(e));
    return found.map((e) => e.outerHTML.slice(0, 120));
}"""


def poor_contrasts(page) -> list[str]:
    """Visible texts that are hard to read."""
    return page.evaluate(_CONTRASTS)


def nameless(page) -> list[str]:
    """Visible controls without a name."""
    return page.evaluate(_NAMELESS)


def overflow(page) -> int:
    """Pixels that the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

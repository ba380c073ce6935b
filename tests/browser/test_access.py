"""What everybody needs to use the pages: names on controls, contrast, room on a phone."""

import pytest

from page import PHONE, SIZE

PATHS = ("/", "/chat", "/models", "/stacks", "/keys")

NAMELESS = """
return [...document.querySelectorAll("button, a[href], input:not([type=hidden]):not([hidden]), select, textarea")]
  .filter((e) => !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length))
  .map((e) => e.outerHTML);
"""

# Text whose contrast with what lies under it is below WCAG's AA. Disabled controls are exempt there.
PALE = """
const parse = (color) => {
  const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
  return { rgb: [r, g, b], a };
};
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const under = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const color = parse(getComputedStyle(e).backgroundColor);
    if (color.a === 1) return color.rgb;
  }
  return [255, 255, 255];
};
const pale = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; (node = walker.nextNode()); ) {
  const element = node.parentElement;
  if (!node.data.trim() || !element.checkVisibility() || element.closest(":disabled, noscript")) continue;
  const style = getComputedStyle(element);
  const [light, dark] = [luminance(parse(style.color).rgb), luminance(under(element))].sort((a, b) => b - a);
  const ratio = (light + 0.05) / (dark + 0.05);
  const large = parseFloat(style.fontSize) >= 24;
  if (ratio < (large ? 3 : 4.5)) pale.push(`${node.data.trim()}: ${ratio.toFixed(2)}`);
}
return pale;
"""


@pytest.mark.parametrize("path", PATHS)
def test_every_control_has_a_name(page, path):
    page.open(path)
    page.see("h1")
    assert page.driver.execute_script(NAMELESS) == []


@pytest.mark.parametrize("scheme", ("dark", "light"))
def test_text_stands_out(page, chat_model, scheme):
    page.scheme(scheme)
    try:
        for path in PATHS:
            page.open(path)
            page.see("h1")
            assert page.driver.execute_script(PALE) == [], path
    finally:
        page.scheme("dark")


def test_it_fits_a_phone(page, chat_model):
    page.metrics(PHONE)
    try:
        for path in PATHS:
            page.open(path)
            page.see("h1")
            width = page.driver.execute_script("return document.documentElement.scrollWidth")
            assert width <= PHONE["width"], f"{path} is {width} px wide"
    finally:
        page.metrics(SIZE)

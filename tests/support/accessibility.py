"""What a page is checked with for accessibility: axe-core, and the contrast of colors."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page

REPOSITORY = Path(__file__).parents[2]
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
"""All rules of WCAG 2.2 at the levels A and AA, and what axe-core recommends beyond them."""

_RUN = """async (tags) => {
  const { violations } = await axe.run(document, { runOnly: tags, resultTypes: ["violations"] });
  return violations.flatMap(({ id, help, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id}: ${help}: ${target.join(" ")}: ${failureSummary}`));
}"""
# The contrast ratio of WCAG 2.2 between the text and the first background behind it that is not transparent.
_CONTRAST = """(element) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (channels) => {
    const [red, green, blue] = channels.slice(0, 3).map((it) => it / 255)
      .map((it) => it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  let behind = element;
  while (behind && rgba(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
  const ground = behind ? getComputedStyle(behind).backgroundColor : "white";
  const [text, back] = [getComputedStyle(element).color, ground].map((color) => luminance(rgba(color)));
  return (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
}"""


def axe_source(npm: str) -> str:
    """The script of axe-core, which `scripts/node-modules` installs. Skips where it cannot; where CI is set, fails."""
    path = {"PATH": f"{Path(npm).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [REPOSITORY / "scripts" / "node-modules"],
        capture_output=True,
        text=True,
        env={**os.environ, **path},
        check=False,
    )
    if done.returncode:
        message = f"axe-core cannot be installed: {done.stderr.strip()}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return (REPOSITORY / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def violations(page: Page, axe: str) -> list[str]:
    """What axe-core finds wrong with the page as it is now, one line for each element. `axe` is its script."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe)
    found: Any = page.evaluate(_RUN, TAGS)
    return list(found)


def contrast(element: Locator) -> float:
    """The contrast ratio of an element's text, from 1 to 21."""
    return float(element.evaluate(_CONTRAST))

"""Looks at every page of the built site as a reader does: light, dark, and on a narrow screen.

    mkdocs build --strict && PYTHONPATH=tests python -m browser.site_pages build/site [SCREENSHOTS]

Needs Playwright and Chromium. Prints what scrolls sideways or ends beyond the text, headings out of
order or with nothing below, markup that was not rendered, tables without column titles, code
without a copy button, broken images, images without a description, links that lead nowhere, text
with a contrast below 4.5 : 1 (3 : 1 where it is large), and the first page that a search finds for
some words; exits with 1 where anything is wrong. Tables may scroll at 390 pixels.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag

from browser.conftest import FLAGS, chromium_path

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDE, NARROW = 1280, 390
WORDS = ("GPU", "VRAM", "Colab", "SDXL", "LoRA")
MEASURE = r"""wide => {
    const found = [];
    const beyond = document.documentElement.scrollWidth - innerWidth;
    if (beyond > 0) found.push(`the page scrolls sideways, by ${beyond} pixels`);
    for (const element of document.querySelectorAll('article *')) {
        const scrolls = ['auto', 'scroll'].includes(getComputedStyle(element).overflowX)
            && element.clientWidth && element.scrollWidth > element.clientWidth;
        const text = element.textContent.trim().slice(0, 40);
        if (wide && scrolls) found.push(`scrolls sideways: ${element.tagName} ${text}`);
    }
    for (const image of document.images) {
        if (!image.complete || !image.naturalWidth) found.push(`broken image: ${image.src}`);
        if (!image.alt) found.push(`image without a description: ${image.src}`);
    }

    const article = document.querySelector('article');
    // Code may stand out by its padding, and on a narrow screen it reaches the screen's edges.
    const edge = wide ? article.getBoundingClientRect().right + 8 : innerWidth;
    const isInBox = element => {
        for (let box = element.parentElement; box !== article; box = box.parentElement)
            if (getComputedStyle(box).overflowX !== 'visible') return true;
        return false;
    };
    for (const element of article.querySelectorAll('*')) {
        const {right, width} = element.getBoundingClientRect();
        const text = element.textContent.trim().slice(0, 40);
        if (width && right > edge && !isInBox(element)
            && !element.matches('.headerlink, .md-typeset__scrollwrap'))
            found.push(`beyond the edge: ${element.tagName} ${text}`);
    }
    let level = 0;
    for (const heading of article.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
        const [text, own] = [heading.textContent, Number(heading.tagName[1])];
        const next = heading.nextElementSibling;
        if (own > level + 1) found.push(`a heading of level ${own} after one of ${level}: ${text}`);
        if (own > 1 && (!next || (/^H\d$/.test(next.tagName) && Number(next.tagName[1]) <= own)
            || (next.matches('.doc-contents') && !next.textContent.trim())))
            found.push(`nothing below the heading ${text}`);
        level = own;
    }
    if (article.querySelectorAll('h1').length !== 1) found.push('not one title');
    for (const table of article.querySelectorAll('table'))
        if (![...table.querySelectorAll('th')].some(title => title.textContent.trim()))
            found.push(`table without column titles: ${table.textContent.trim().slice(0, 40)}`);
    for (const code of article.querySelectorAll('pre > code'))
        if (!code.parentElement.querySelector('[data-clipboard-target]')
            && !code.closest('.highlight')?.querySelector('[data-md-type="copy"]'))
            found.push(`code without a copy button: ${code.textContent.trim().slice(0, 40)}`);
    const prose = article.cloneNode(true);
    prose.querySelectorAll('pre, code, math, script, style').forEach(element => element.remove());
    const markup = /.{0,20}(?:\*\*|`|\$|\]\(|:::|<\/?[a-z]+>|\\[a-z]{2,}).{0,20}/g;
    for (const [raw] of prose.textContent.matchAll(markup)) found.push(`not rendered: ${raw}`);

    const canvas = document.createElement('canvas');
    const pen = canvas.getContext('2d', {willReadFrequently: true});
    const read = colour => {
        pen.clearRect(0, 0, 1, 1);
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        const [red, green, blue, alpha] = pen.getImageData(0, 0, 1, 1).data;
        return [[red, green, blue], alpha / 255];
    };
    const over = ([top, alpha], below) => top.map((v, i) => v * alpha + below[i] * (1 - alpha));
    const ground = element => {
        if (!element) return [255, 255, 255];
        const own = read(getComputedStyle(element).backgroundColor);
        return own[1] === 1 ? own[0] : over(own, ground(element.parentElement));
    };
    const light = colour => colour.map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const weak = new Map();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        const style = getComputedStyle(element);
        const text = texts.currentNode.data.trim();
        if (!text || !element.checkVisibility({visibilityProperty: true, opacityProperty: true})
            || element.matches('.headerlink, script, style, noscript')) continue;
        const below = ground(element);
        const [ink, paper] = [light(over(read(style.color), below)), light(below)];
        const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
        if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5))
            weak.set(`${style.color} on ${below.map(Math.round)}`, [ratio.toFixed(2), text]);
    }
    for (const [colours, [ratio, text]] of weak)
        found.push(`contrast of ${ratio}, ${colours}: ${text.slice(0, 40)}`);
    return found;
}"""
NAMES = "[...document.querySelectorAll('[id]')].map(element => element.id)"
LINKS = "[...document.querySelectorAll('a[href]')].map(link => link.href)"
FOUND = ".md-search-result__item"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder's files, while the context lasts."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def dead_links(links: dict[str, list[str]], names: dict[str, set[str]]) -> Iterator[str]:
    """Those to pages or places of the site that are not there, by page."""
    for page, targets in links.items():
        for target in targets:
            address, place = urldefrag(target)
            if address not in names or (place and unquote(place) not in names[address]):
                yield f"{page}: {target} leads nowhere"


def search(page: Page, word: str) -> str:
    """The title of the first page that the search shows for a word, once it has answered."""
    page.reload()
    page.click(".md-search__input")
    page.keyboard.type(word)
    marked = re.compile(rf"^{word}$", re.I)  # and not a part of it, which was searched for before
    page.locator(f"{FOUND} mark").filter(has_text=marked).first.wait_for(state="attached")
    return page.locator(f"{FOUND} h1").first.inner_text()


def main(folder: Path, screenshots: Path | None) -> int:
    from playwright.sync_api import sync_playwright

    wrong: list[str] = []
    links: dict[str, list[str]] = {}
    names: dict[str, set[str]] = {}
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    with served(folder) as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path(), args=list(FLAGS), chromium_sandbox=False
        )
        for width in (WIDE, NARROW):
            for scheme in ("light", "dark"):
                size = {"width": width, "height": 900}
                page = browser.new_page(viewport=size, color_scheme=scheme)
                for name in pages:
                    page.goto(site + name, wait_until="load")
                    found = page.evaluate(MEASURE, width == WIDE)
                    wrong += [f"{name}, {width}, {scheme}: {what}" for what in found]
                    names[site + name] = set(page.evaluate(NAMES))
                    links[name] = [link for link in page.evaluate(LINKS) if link.startswith(site)]
                    if screenshots:
                        title = f"{width}-{scheme}/{name.replace('/', '-')}.png"
                        page.screenshot(path=screenshots / title, full_page=True)
                page.close()
        names[site] = names[site + "index.html"]
        wrong += dead_links(links, names)
        page = browser.new_page()
        page.goto(site)
        for word in WORDS:
            print(f"search for {word}: {search(page, word)}")
        browser.close()
    print(*wrong, f"{len(pages)} pages, {len(wrong)} things wrong", sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))

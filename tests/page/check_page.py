"""The live page and the report in a real browser: what is pressed reaches both sides, nothing is loaded
from elsewhere, no console speaks of a problem, and everybody can use it: by keyboard, with a screen
reader, on a narrow screen, dark or light.

Usage: check_page.py CHROMIUM FOLDER PATH_TO_SIDE_BY_SIDE [--screenshots FOLDER]
"""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
LIMIT = 180.0
"""Seconds that anything may take. The machine may be busy."""
ATTACKS_LIMIT = 660.0
"""Seconds that the attacks may take, which end themselves before that."""
START = "12s"
"""What a start of a task is simulated to take: so long that the page, which looks twice a second, cannot miss it."""

BUTTONS = ["Rotate all four", "Rotate one: torn set", "Revoke the old keys", "New deployment (injected)",
           "Secrets Manager away", "DynamoDB away", "Run the attacks"]
SIDES = ["embedded", "injected"]
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}

CONTRAST = """() => {
  const channel = (value) => { value /= 255; return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; };
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const node of document.querySelectorAll("h1, h2, p, span, b, dt, dd, th, td, li, caption, summary, code, button:not(:disabled)")) {
    if (!node.checkVisibility() || !node.textContent.trim()) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${node.tagName}.${node.className} ${node.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""

UNLABELLED = """() => {
  const found = [];
  const named = (node) => node.getAttribute("aria-label") || node.getAttribute("aria-labelledby");
  for (const button of document.querySelectorAll("button")) if (!button.textContent.trim()) found.push("a button");
  for (const table of document.querySelectorAll("table")) if (!table.caption?.textContent.trim()) found.push("a table");
  for (const node of document.querySelectorAll("svg, [role=region], [role=log]")) if (!named(node)) found.push(node.outerHTML.slice(0, 80));
  for (const node of document.querySelectorAll(".scroll, #timeline")) if (node.tabIndex !== 0) found.push("not reachable: " + node.className + node.id);
  for (const cell of document.querySelectorAll("thead th")) if (cell.scope !== "col") found.push("a head cell");
  if (!document.documentElement.lang || !document.title) found.push("lang or title");
  if (document.querySelectorAll("h1").length !== 1) found.push("h1");
  return found;
}"""


class Demo:
    """A demo that runs, and what it has said."""

    def __init__(self, program: str, *arguments: str) -> None:
        self.process = subprocess.Popen([program, *arguments], stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.said: list[str] = []
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line)
            self.lines.put(line)

    def match(self, pattern: str) -> str:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            try:
                found = re.search(pattern, self.lines.get(timeout=1))
            except queue.Empty:
                assert self.process.poll() is None, "".join(self.said)
                continue
            if found:
                return found[1]
        raise AssertionError(f"{pattern} was not said:\n{''.join(self.said)}")

    def type(self, word: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


def until(what: str, page: Page, condition: Callable[[], bool], limit: float = LIMIT) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"{what} did not come:\n{page.inner_text('main')}"
        page.wait_for_timeout(100)


def open_page(browser: Browser, size: tuple[int, int], scheme: Any, url: str, problems: list[str]) -> Page:
    """A page of its own. What is wrong with it is put to the problems."""
    context: BrowserContext = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(LIMIT * 1000)
    page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(f"{request.url}: {request.failure}"))
    own = url if url.startswith("file:") else url.rstrip("/")
    page.on("request", lambda request: None if request.url.startswith(own) else problems.append(request.url))
    page.goto(url)
    return page


def close(page: Page, problems: list[str]) -> None:
    """What a page has asked for as it is closed fails, and is no problem of it."""
    before = len(problems)
    page.context.close()
    del problems[before:]


def check_form(page: Page, size: tuple[int, int], name: str) -> None:
    """It fits its window, can be read, and everything has a name."""
    assert page.evaluate("innerWidth") == size[0]
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= size[0], f"{name}: {wide} px wide"
    poor = page.evaluate(CONTRAST)
    assert not poor, f"{name}: too little contrast: {poor}"
    unlabelled = page.evaluate(UNLABELLED)
    assert not unlabelled, f"{name}: without a label: {unlabelled}"


class Live:
    """The live page, with what it says of either side."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def field(self, side: str, name: str) -> str:
        return self.page.inner_text(f"[data-side={side}] [data-field={name}]")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def until(self, side: str, field: str, pattern: str) -> None:
        until(f"{side}: {field}: {pattern}", self.page,
              lambda: re.search(pattern, self.field(side, field)) is not None)

    def told(self, pattern: str) -> None:
        until(pattern, self.page, lambda: re.search(pattern, self.page.inner_text("#timeline")) is not None)


def check_keyboard(page: Page) -> None:
    """Each button is reached with the Tab key, in order, and is seen to have the focus."""
    page.evaluate("document.activeElement?.blur()")
    reached: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim().slice(0, 60)"))
        if reached[-1] in BUTTONS:
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    order = [name for name in reached if name in BUTTONS]
    assert order[:len(BUTTONS)] == BUTTONS, order
    assert reached[0] == "To both sides", reached[0]
    assert page.evaluate("document.querySelector('#timeline').tabIndex") == 0


def check_live(page: Page, demo: Demo, screenshots: Path | None) -> None:
    live = Live(page)
    for side in SIDES:
        live.until(side, "rows", r"[1-9]")
        live.until(side, "task", "RUNNING")
        live.until(side, "keys", "number 1 of 1")
    check_keyboard(page)
    if screenshots:
        # So that the chart shows something.
        for side in SIDES:
            until(f"{side}: 300 rows", page, lambda: int(live.field(side, "rows")) >= 300)

    button = page.get_by_role("button", name="Rotate all four", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    live.until("embedded", "keys", "number 2 of 2")
    live.until("injected", "keys", "number 1 of 2")
    live.until("injected", "old", "^now")
    assert not live.field("embedded", "old").startswith("now")

    live.press("Revoke the old keys")
    live.until("injected", "stream", "^none; refused")
    live.until("embedded", "stream", "^open")
    live.press("New deployment (injected)")
    live.until("injected", "task", r"PROVISIONING, ready in \d+ s \(simulated\)")
    if screenshots:
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=screenshots / "side-by-side.png")
    live.until("injected", "keys", "number 2 of 2")
    live.until("injected", "missed", r"[1-9]\d*, [1-9]\d* of them in a simulated start")
    live.until("injected", "old", "^[^n].* of it simulated")
    assert "simulated" not in live.field("embedded", "old")
    assert live.field("embedded", "missed") == "0"

    away = page.get_by_role("button", name="DynamoDB away", exact=True)
    away.press("Space")
    live.told("embedded rows wait")
    live.told("injected rows wait")
    assert away.get_attribute("aria-pressed") == "true"
    away.press("Space")
    live.told("DynamoDB answers again")
    for side in SIDES:
        before = int(live.field(side, "rows"))
        until(f"{side}: rows again", page, lambda: int(live.field(side, "rows")) > before + 10)
    assert away.get_attribute("aria-pressed") == "false"

    # What is typed in the terminal is seen here.
    demo.type("tear")
    live.told("a torn set")
    live.until("embedded", "keys", "torn between 2 and 3")
    live.press("Rotate all four")
    live.until("embedded", "keys", "number 3 of 3")

    live.press("Run the attacks")
    until("a finding", page, lambda: page.locator("#findings tbody tr").count() > 0)
    until("the end of the attacks", page,
          lambda: not page.inner_text("#attacked").startswith("under way: "), ATTACKS_LIMIT)
    assert page.inner_text("#attacked").startswith("made: "), page.inner_text("#attacked")
    more = page.locator("#findings details").first
    assert not more.evaluate("(node) => node.open")
    more.locator("summary").press("Enter")
    assert more.evaluate("(node) => node.open")
    assert "To repeat it there: " in more.inner_text(), more.inner_text()

    # A refusal can be read: what comes twice a second does not take its place.
    page.route("**/action/revoke", lambda route: route.fulfill(status=503, body="not now"))
    live.press("Revoke the old keys")
    until("a refusal", page, lambda: page.inner_text("#state") == "refused: not now")
    for _ in range(2):
        page.wait_for_event("response", lambda answer: "/snapshot" in answer.url)
    assert page.inner_text("#state") == "refused: not now", page.inner_text("#state")
    until("the state again", page, lambda: page.inner_text("#state").startswith("running for "))

    # The controls of what is checked here: the token is needed, and what is not there is an error.
    refused = page.evaluate("fetch('/action/rotate', { method: 'POST' }).then((answer) => answer.status)")
    assert refused == 403, refused


def main() -> None:
    chromium, folder, program, *rest = sys.argv[1:]
    screenshots = Path(rest[1]) if rest else None
    report = Path(folder) / "report"
    problems: list[str] = []
    demo = Demo(program, "--fargate-start", START, "--rate", "40")
    once: Demo | None = None
    try:
        url = demo.match(r"Live page\s+(http://127\.0\.0\.1:\d+/)")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            page = open_page(browser, SIZES["wide"], "light", url, problems)
            check_live(page, demo, screenshots)
            close(page, problems)
            # The refusals that were asked for are the only problems.
            assert len(problems) == 2 and "503" in problems[0] and "403" in problems[1], problems
            problems.clear()
            backgrounds = set()
            for scheme in ("light", "dark"):
                for name, size in SIZES.items():
                    page = open_page(browser, size, scheme, url, problems)
                    live = Live(page)
                    live.until("injected", "task", "RUNNING")
                    live.told("embedded")
                    until("the findings", page, lambda: page.locator("#findings summary").count() > 0)
                    page.locator("#findings summary").first.press("Enter")
                    check_form(page, size, f"live, {scheme}, {name}")
                    backgrounds.add((scheme, page.evaluate("getComputedStyle(document.body).backgroundColor")))
                    close(page, problems)
            assert len({colour for _, colour in backgrounds}) == 2, backgrounds
            demo.end()

            once = Demo(program, "--once", "--fargate-start", "2s", "--rate", "40", "--out", str(report))
            status = once.process.wait(ATTACKS_LIMIT + LIMIT)
            assert status == 0, "".join(once.said)
            for scheme in ("light", "dark"):
                for name, size in SIZES.items():
                    page = open_page(browser, size, scheme, (report / "report.html").as_uri(), problems)
                    more = page.locator("details").first
                    more.locator("summary").press("Enter")
                    assert more.evaluate("(node) => node.open") and more.locator("code").is_visible()
                    check_form(page, size, f"report, {scheme}, {name}")
                    assert page.locator("svg polyline").count() == 2
                    if screenshots and (name, scheme) == ("wide", "light"):
                        page.evaluate("scrollTo(0, 0)")
                        page.screenshot(path=screenshots / "report.png")
                    close(page, problems)
            browser.close()
    finally:
        for running in (demo, once):
            if running:
                running.end()
    assert not problems, problems
    print("The page and the report are as they should be.")


if __name__ == "__main__":
    main()

"""A real Chromium without a window, and everything that it asks the network for."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Page

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
AXE = """async () => {
    const found = await axe.run(document, {resultTypes: ["violations", "incomplete"]});
    return found.violations.map(each => `${each.id}: ${each.nodes.map(node => node.target.join(" ")).join("; ")}`);
}"""


@dataclass
class Browser:
    """An open tab. `requests` are the addresses it asked for, `complaints` all that it reports as wrong."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    async def shoot(self, path: Path) -> None:
        """Take a screenshot of what is to be seen; animations stand still for it."""
        await self.page.screenshot(path=path, animations="disabled")

    async def violations(self) -> list[str]:
        """The rules of axe that the document breaks."""
        from axe_playwright_python.async_playwright import Axe

        await self.page.evaluate(Axe().axe_script)
        found: list[str] = await self.page.evaluate(AXE)
        return found

    async def is_wider_than_its_window(self) -> bool:
        wider: bool = await self.page.evaluate("document.documentElement.scrollWidth > innerWidth")
        return wider

    async def focused(self) -> str:
        """The element with the focus: its label or text."""
        text: str = await self.page.evaluate(
            "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"
        )
        return text


@asynccontextmanager
async def browsing(width: int = 1400, height: int = 1000, **options: Any) -> AsyncIterator[Browser]:
    """A tab of a browser without a profile."""
    from playwright.async_api import async_playwright

    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    assert program, "Chromium is not installed"
    async with async_playwright() as playwright:
        # Its sandbox needs user namespaces, which root in a container does not have.
        sandbox = [] if os.geteuid() else ["--no-sandbox"]
        chromium = await playwright.chromium.launch(executable_path=program, args=sandbox)
        context = await chromium.new_context(viewport={"width": width, "height": height}, **options)
        browser = Browser(await context.new_page())
        browser.page.on("request", lambda request: browser.requests.append(request.url))
        browser.page.on("console", lambda message: browser.complaints.append(message.text))
        browser.page.on("pageerror", lambda error: browser.complaints.append(str(error)))
        browser.page.on("dialog", lambda dialog: browser.complaints.append(f"dialog: {dialog.message}"))
        try:
            yield browser
        finally:
            await chromium.close()

"""Make the site: `python docs/build.py` writes it to build/site, and stops at any warning.

Notebooks are shown as they are stored, none is executed. Afterwards every link and picture of every
page is looked up in the site, those in raw HTML and in the notebooks' outputs too.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.cmd.build import main as sphinx_build

ROOT = Path(__file__).parent.parent
# The pages lie in docs/, and the first one is not at the site's root.
FIRST = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>minifcn</title>
<meta http-equiv="refresh" content="0; url=docs/index.html"></head>
<body><a href="docs/index.html">minifcn</a></body></html>
"""


class Page(HTMLParser):
    """What a page links to, and the places in it that can be linked to.

    Attributes
    ----------
    links
        Addresses of links, pictures, scripts and styles.
    places
        The ``id`` of elements.
    blind
        Pictures without an ``alt`` text.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.blind: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the addresses and names of one element."""
        found = {name: value or "" for name, value in attrs}
        self.links += [found[name] for name in ("href", "src") if found.get(name)]
        self.places.add(found.get("id", ""))
        source, words = found.get("src", ""), found.get("alt", "")
        if tag == "img" and (not words or words == source):  # Sphinx fills in the file's name
            self.blind.append(source[:80])


def faults(site: Path) -> Iterator[str]:
    """Yield every link of the site that leads nowhere in it, and every picture without a text."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        at = path.relative_to(site)
        yield from (f"{at}: no alt text: {source}" for source in page.blind)
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                yield f"{at}: no such file: {link}"
            if not parts.fragment or target not in pages or at.parts[0] == "_modules":
                continue  # pages of source code lead back to the first name of their module alone
            if unquote(parts.fragment) not in pages[target].places:
                yield f"{at}: no such place: {link}"


def build(site: Path) -> int:
    """Make the site anew and return 0, or something else if there was a warning or a fault."""
    if (site / ".buildinfo").exists():  # a site of before: pages that are gone would stay in it
        shutil.rmtree(site)
    with tempfile.TemporaryDirectory() as pages:
        options = ["-c", str(ROOT / "docs"), "-d", pages, "-W", "--keep-going", "-q"]
        failed = sphinx_build([*options, str(ROOT), str(site)])
    if failed:
        return failed
    (site / "index.html").write_text(FIRST, encoding="utf-8")
    found = list(faults(site.resolve()))
    print("\n".join(found), file=sys.stderr, end="\n" * bool(found))
    return 1 if found else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the site.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    given = parser.parse_args()
    status = build(given.out)
    print(f"{given.out / 'index.html'}: " + ("warnings, see above" if status else "all right"))
    sys.exit(status)

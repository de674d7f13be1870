"""The HTML pages, opened in headless Chromium: on a wide screen and a phone, light and dark.

A page must need nothing else (no request, no script), fit into the window, show its text and its
pictures, and be readable in both colour schemes, also where JavaScript is switched off.
"""

import os
import shutil

import numpy as np
import pytest
from run_folders import VAL, trained, written

from minifcn import data, models, runs
from minifcn.contact_sheet import write_contact_sheet
from minifcn.data import check
from minifcn.demo import draw
from minifcn.evaluation import evaluate, score_images
from minifcn.report import Report, Row, write_report
from minifcn.run_compare import write_comparison
from minifcn.run_page import write_page
from minifcn.worst import Worst, write_sheet

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDE, PHONE = (1280, 900), (390, 844)

MEASURE = """() => {
  const visible = e => e.getClientRects().length > 0;
  const inside = [...document.querySelectorAll('svg text')].filter(visible).every(t => {
    const a = t.getBoundingClientRect(), b = t.closest('svg').getBoundingClientRect();
    return a.left >= b.left - 1 && a.right <= b.right + 1 && a.bottom <= b.bottom + 1;
  });
  const style = getComputedStyle(document.body);
  return {
    width: document.documentElement.scrollWidth,
    text: document.body.innerText,
    images: [...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt !== '',
                                           i.getBoundingClientRect().width]),
    drawings: [...document.querySelectorAll('svg')].filter(visible)
        .map(s => s.getBoundingClientRect().width),
    letters: [...document.querySelectorAll('svg text')].filter(visible)
        .map(t => t.getBoundingClientRect().height),
    inside: inside, paper: style.backgroundColor, ink: style.color,
  };
}"""


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; the tests are skipped where there is none, but not if it must be."""
    must = os.environ.get("MINIFCN_BROWSER") == "1"
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None and not must:
        pytest.skip("Chromium is not installed")
    assert path, "Chromium is not installed, and MINIFCN_BROWSER=1 asks for it"
    if not must:
        pytest.importorskip("playwright", reason="playwright is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # A container has no sandbox of its own inside, and little shared memory.
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        opened = playwright.chromium.launch(executable_path=path, args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """All kinds of pages that the project writes, by name, with a text that stands in each."""
    folder = tmp_path_factory.mktemp("pages")
    trained(folder / "finished")
    running = folder / "a_run_with_a_rather_long_name_that_has_no_place_to_break"
    written(
        running, steps=30, total=900, state=runs.RUNNING, classes=[f"class {n}" for n in "abcde"]
    )
    failed = folder / "failed"
    written(failed, steps=3, total=9)
    why = f"the loss is nan at step 3 (images {'x' * 200})"
    runs.write_state(failed, runs.State(runs.FAILED, "fcn8s", why))
    for path in (running, failed):
        write_page(path / "report.html", runs.read(path))
    found = [runs.read(path) for path in runs.find([folder])]
    write_comparison(folder / "comparison.html", found)
    write_contact_sheet(folder / "check.html", check("shapes?split=val"))
    _write_demo(folder / "demo.html")
    _write_worst(folder / "worst.html")
    return {
        "finished run": (folder / "finished" / "report.html", "stage 2 of 2"),
        "running run": (running / "report.html", "step 30 of 900"),
        "failed run": (failed / "report.html", "the loss is nan"),
        "comparison": (folder / "comparison.html", "In what they differ"),
        "data check": (folder / "check.html", "50 samples in 1 split"),
        "worst images": (folder / "worst.html", "The lowest mean IU first"),
        "demo": (folder / "demo.html", "Loss while training"),
    }


def _write_demo(path):
    """Write a report as the demo does, of a net that has learnt nothing."""
    val_set = data.landcover("val")
    net = models.build(
        "fcn8s", num_classes=8, backbone="small", widths=(4,) * 5, rng=np.random.default_rng(0)
    )
    matrix = evaluate(net, val_set)[""]
    report = Report(
        title="Land cover from satellite images",
        summary="Nothing was learnt. " * 10,
        rows=[Row("commonest class", matrix), Row("FCN-8s", matrix, 12.0)],
        classes=val_set.classes,
        palette=val_set.palette,
        losses={"FCN-8s": [2.0, 1.5, 1.25] * 20},
        examples=draw({"fcn8s": net}, val_set)[:2],
        facts={"command": f"minifcn demo --out {'folder/' * 30}"},
    )
    write_report(path, report)


def _write_worst(path):
    """Write a sheet of the worst images of a net that has learnt nothing."""
    net = models.build("fcn32s", num_classes=4, backbone="small", widths=(4,) * 5)
    worst = Worst(VAL, 3)
    for scored in score_images(net, VAL):
        worst.add(scored)
    write_sheet(path, worst.cases(), VAL)


def luminance(colour):
    """Return how bright a CSS colour is, from 0 (black) to 1 (white)."""
    red, green, blue = (int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@pytest.mark.parametrize("name", ["finished run", "running run", "failed run"])
def test_folded_numbers_fit_too(browser, pages, name):
    context = browser.new_context(viewport=dict(zip(("width", "height"), PHONE, strict=True)))
    page = context.new_page()
    page.goto(pages[name][0].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = page.evaluate(MEASURE)
    assert found["width"] <= PHONE[0]
    assert "step" in found["text"]
    context.close()


@pytest.mark.parametrize("script", [True, False], ids=["with JavaScript", "without"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_stand_alone_fit_and_can_be_read(browser, pages, scheme, script, record_count):
    context = browser.new_context(color_scheme=scheme, java_script_enabled=script, offline=True)
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    seen = 0
    for name, (path, text) in pages.items():
        for size in (WIDE, PHONE):
            page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
            page.goto(path.as_uri())
            found = page.evaluate(MEASURE)
            seen += 1
            assert text in found["text"], name
            assert found["width"] <= size[0], f"{name} is wider than the window"
            assert all(good and told and wide >= 20 for good, told, wide in found["images"]), name
            assert found["inside"], f"{name}: a text is cut off in a chart"
            assert all(size[0] >= wide >= 50 for wide in found["drawings"]), name
            assert min(found["letters"], default=99) >= 9, f"{name}: letters are too small"
            dark_paper = luminance(found["paper"]) < 0.2
            assert dark_paper == (scheme == "dark"), name
            assert abs(luminance(found["paper"]) - luminance(found["ink"])) > 0.7, name
            if name in ("finished run", "data check", "demo", "worst images"):
                assert found["images"], name
    own = {path.as_uri() for path, _ in pages.values()}
    assert {url for url in requests if not url.startswith("data:")} <= own
    assert complaints == []
    context.close()
    record_count("pages seen in a browser", seen)

"""Pages in a real browser, loaded from disk."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.finished_runs import finish_run, log_run
from imgnet_mini import cli as command_line
from imgnet_mini.reporting.format import UNKNOWN
from imgnet_mini.runs.predictions import Predictions

if importlib.util.find_spec("selenium") is None:
    pytest.skip("needs selenium", allow_module_level=True)

from helpers.browser import CHROMIUM, DRIVER, MISSING, open_browser

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)

WIDTHS = (360, 1400)
HOSTILE = "<img src=x onerror=alert(1)>{{7*7}}&amp;\u202e'\""
SECONDS = 1.5
"""A click on a header may take so long with 1,000 classes, on a slow machine too."""


@dataclass(frozen=True)
class Made:
    """A page, and what it was made of."""

    path: Path
    predictions: Predictions


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


def run(*words):
    with pytest.raises(SystemExit) as end:
        command_line.main([*map(str, words)])
    assert not end.value.code


@pytest.fixture(scope="module", params=[2, 1000])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    classes = [f"class {number:04d}" for number in range(request.param)]
    predictions = finish_run(folder, folder / "data", classes)
    run("report", "--name", "a", "--output-dir", folder)
    return Made(folder / "reports/a/index.html", predictions)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    names = ["short", *(f"{'long-' * 11}{number}" for number in range(11))]
    for number, name in enumerate(names):
        settings = {"data": {"batch_size": number + 2}, "schedule": {"max_lr": 0.01 * (number + 1)}}
        log_run(folder, name, epochs=number + 1, settings=settings)
    run("compare", *names, "--output-dir", folder)
    (page,) = (folder / "reports").glob("*/index.html")
    return page


def is_too_wide(browser):
    return browser.run("return document.documentElement.scrollWidth > window.innerWidth")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_the_report_loads_nothing_logs_nothing_and_fits(browser, made, width, dark):
    browser.load(made.path, width=width, dark=dark)
    browser.run("for (const part of document.querySelectorAll('details')) part.open = true")
    assert browser.requests == [made.path.absolute().as_uri()]
    assert browser.console_messages == []
    assert not is_too_wide(browser)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_comparison_loads_nothing_logs_nothing_and_fits(browser, compared, width):
    browser.load(compared, width=width)
    assert browser.requests == [compared.absolute().as_uri()]
    assert browser.console_messages == []
    assert not is_too_wide(browser)
    assert len(browser.texts("#results tbody tr")) == 12
    assert len(browser.texts(".chart")) == 5


def test_every_image_is_there(browser, made):
    browser.load(made.path)
    browser.run("for (const part of document.querySelectorAll('details')) part.open = true")
    widths = browser.run("return [...document.images].map((image) => image.naturalWidth)")
    assert len(widths) > 10
    assert min(widths) > 0
    assert browser.texts(".missing") == []


def luminance(color):
    red, green, blue = (
        (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for c in (int(part) / 255 for part in color[4:-1].split(","))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("part", ["body", ".soft", ".ok", ".no", "h2 + p", "svg text"])
def test_text_contrast_is_sufficient_in_both_modes(browser, made, dark, part):
    browser.load(made.path, dark=dark)
    script = """const style = getComputedStyle(document.querySelector(arguments[0]));
        return [arguments[0].startsWith("svg") ? style.fill : style.color,
                getComputedStyle(document.body).backgroundColor]"""
    text, back = map(luminance, browser.run(script, part))
    assert (back < text) is dark
    contrast = (max(text, back) + 0.05) / (min(text, back) + 0.05)
    assert contrast >= 4.5  # WCAG 2.1, level AA


def column(browser, number):
    cells = browser.texts(f"#classes tbody tr > :nth-child({number})")
    return [cell.split("\n")[0] for cell in cells]


def test_the_table_sorts_by_each_header_and_announces_it(browser, made):
    browser.load(made.path)
    names = column(browser, 1)
    assert len(names) == len(made.predictions.classes)
    headers = browser.texts("#classes thead th")
    assert [header.rstrip(" ↕") for header in headers] == [
        "Class", "Recall", "Precision", "F1", "Correct", "Images", "Most confused with",
    ]  # fmt: skip
    browser.find("#classes th:nth-child(4) button").click()
    scores = [float(text) for text in column(browser, 4)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    states = "return [...document.querySelectorAll('#classes th[scope=col]')].map(e => e.ariaSort)"
    assert browser.run(states) == [*["none"] * 3, "descending", *["none"] * 3]
    browser.find("#classes th:nth-child(4) button").click()
    assert [float(text) for text in column(browser, 4)] == sorted(scores)
    assert browser.run(states)[3] == "ascending"
    browser.find("#classes th:nth-child(1) button").click()
    assert column(browser, 1) == names


def test_unknown_values_come_last_in_either_order(browser, made):
    browser.load(made.path)
    button = browser.find("#classes th:nth-child(3) button")
    shares = []
    for _ in range(2):
        button.click()
        shares.append(column(browser, 3))
    assert shares[0] != shares[1] or len(shares[0]) == 2
    assert [column.index(UNKNOWN) for column in shares] == [len(shares[0]) - 1] * 2


def test_the_table_finds_what_is_typed_and_counts_it(browser, made):
    browser.load(made.path)
    search = browser.find("#classes input")
    search.send_keys("CLASS 0001")
    size = len(made.predictions.classes)
    assert column(browser, 1) == ["class 0001"]
    assert browser.texts("#classes output") == [f"1 of {size:,}"]
    search.send_keys(" nothing")
    assert browser.texts("#classes tbody tr") == []
    search.clear()
    search.send_keys(" ")
    assert len(browser.texts("#classes tbody tr")) == size


def test_the_table_works_from_the_keyboard(browser, made):
    browser.load(made.path)
    browser.run("document.querySelector('#classes input').focus()")
    focused = "return document.activeElement"
    for _ in range(3):  # the table that scrolls, the first header, the second
        browser.run(focused).send_keys("\ue004")
    assert browser.run(focused).text.startswith("Recall")
    browser.run(focused).send_keys("\ue007")
    shares = [float(text.rstrip(" %")) for text in column(browser, 2)]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.timing
def test_the_table_stays_quick(browser, made):
    browser.load(made.path)
    for number in (1, 2, 7):
        click = f"document.querySelector('#classes th:nth-child({number}) button').click()"
        assert quickest(browser, click) < SECONDS
    typed = """const input = document.querySelector('#classes input');
        input.value = '9'; input.dispatchEvent(new Event('input'))"""
    assert quickest(browser, typed) < SECONDS


def quickest(browser, script):
    """Of three times: what else the machine does is not the page's."""
    return min(browser.seconds(script) for _ in range(3))


def test_a_chart_shows_the_values_at_the_pointer_and_at_the_position_set_by_keys(browser, made):
    browser.load(made.path)
    chart = "#training .chart:nth-of-type(1)"
    first = browser.texts(f"{chart} .legend b")
    assert browser.texts(f"{chart} .position") == ["epoch 3"]
    assert first == ["3.250", "3.750"]
    svg = browser.find(f"{chart} svg")
    svg.send_keys("\ue011")  # Home
    assert browser.texts(f"{chart} .position") == ["epoch 0"]
    assert browser.texts(f"{chart} .legend b") == ["4.000", "4.500"]
    assert svg.get_attribute("aria-valuetext") == "epoch 0, train 4.000, validation 4.500"
    browser.run(
        """const box = arguments[0].getBoundingClientRect();
        arguments[0].dispatchEvent(new PointerEvent('pointermove',
            {clientX: box.left + 0.99 * box.width, clientY: box.top + 9}))""",
        svg,
    )
    assert browser.texts(f"{chart} .legend b") == first


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Hostile names, and half of the images missing."""
    folder = tmp_path_factory.mktemp("hostile")
    classes = [HOSTILE, "</script><script>alert(1)</script>", "</style>\n\x1b[2J\udcff"]
    predictions = finish_run(folder, folder / "data", classes)
    for image in predictions.images[::2]:
        (folder / "data/val" / image).unlink()
    run("report", "--name", "a", "--output-dir", folder)
    return Made(folder / "reports/a/index.html", predictions)


def test_hostile_names_are_shown_and_have_no_effect(browser, hostile):
    browser.load(hostile.path)
    assert browser.requests == [hostile.path.absolute().as_uri()]
    assert browser.console_messages == []
    assert column(browser, 1) == [
        HOSTILE.replace("\u202e", r"\u202e"),
        "</script><script>alert(1)</script>",
        r"</style>\n\x1b[2J\udcff",
    ]
    tags = browser.run("return [...document.scripts].length + document.styleSheets.length")
    assert tags == 2


def test_the_policy_blocks_names_that_are_not_escaped(browser, hostile):
    browser.load(hostile.path)
    browser.run("""
        document.body.insertAdjacentHTML('beforeend', '<b onclick="window.hit = 1">x</b>');
        document.body.lastChild.click();
        const script = document.createElement('script');
        script.textContent = 'window.hit = 2';
        document.body.append(script);
        const image = new Image();
        image.src = 'https://example.invalid/x.png';
        document.body.append(image);
    """)
    assert browser.run("return window.hit") is None
    assert len(browser.console_messages) == 3
    assert browser.requests == [hostile.path.absolute().as_uri()]


def test_missing_images_are_replaced_by_their_names(browser, hostile):
    browser.load(hostile.path)
    missing = browser.texts(".missing")
    assert missing
    assert all(text.startswith("Not readable: ") for text in missing)
    assert browser.run("return [...document.images].every((image) => image.naturalWidth > 0)")
    assert "of the 12 images shown on this page can no longer be read" in browser.find("body").text

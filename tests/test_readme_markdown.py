from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from imgnet_mini.reporting.readme.markdown import code, escape, fence

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "https://example.org",
    "a|b",
    "`tick`",
    "*bold* _thin_ **fat** ~~struck~~",
    "&lt;b&gt;",
    "back\\slash",
    "$\\frac{1}{2}$",
    "# heading",
    "- item",
    "1. item",
    "{{7*7}}",
    "é 日本",
]


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def page(markdown):
    return Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("show", [escape, code])
def test_a_name_is_shown_as_it_is_and_makes_no_tag(name, show):
    for markdown in (show(name), f"| a | b |\n|--|--|\n| {show(name)} | 1 |"):
        shown = page(markdown)
        assert name in shown.text
        assert not {"a", "img", "script", "em", "strong", "s", "h1", "ul", "ol"} & set(shown.tags)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_holds_inside_an_html_block_too(name):
    assert name in page(f"<details>\n<summary>{escape(name)}</summary>\n</details>").text


def test_control_and_direction_characters_are_spelt_out():
    assert page(escape("a\x1b[2J\u202eb\nc\udcff")).text.strip() == r"a\x1b[2J\u202eb\nc\udcff"


def test_ordinary_names_stay_readable_in_the_source():
    for name in ("r50_onecycle_amp", "NVIDIA GeForce RTX 3090 (24 GB)", "great white shark", "0.9"):
        assert escape(name) == name


@pytest.mark.parametrize(
    "text", ["plain", "``` inside", "`````\nfive", "</details>\n\n# x", "a\tb"]
)
def test_a_fence_holds_whatever_the_text_says(text):
    shown = page(fence(text) + "\n\nafter")
    assert shown.tags == ["pre", "code", "p"]
    assert text.expandtabs() in shown.text

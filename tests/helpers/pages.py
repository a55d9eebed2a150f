"""Parsed Markdown and HTML pages."""

import base64
import io
from html.parser import HTMLParser
from itertools import pairwise

from markdown_it import MarkdownIt
from PIL import Image


class Page(HTMLParser):
    """A rendered Markdown file.

    kinds: of its tokens; tags, comments, images (addresses): of its HTML.
    tables: header, joined by |, to the cells of each row.
    """

    def __init__(self, path):
        super().__init__()
        self.tags, self.images, self.comments = set(), [], []
        markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
        tokens = markdown.parse(path.read_text("utf-8"))
        self.tokens = [part for token in tokens for part in (token, *(token.children or ()))]
        self.kinds = {token.type for token in self.tokens}
        self.fences = [token for token in tokens if token.type == "fence"]
        self.headings = self._texts(tokens, "heading_open")
        self.tables = self._tables(tokens)
        self.feed("\n".join(t.content for t in self.tokens if t.type.startswith("html_")))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert {key for key, _ in attrs} <= {"align", "width", "src", "alt"}
        self.images += [value for key, value in attrs if key == "src"]

    def handle_comment(self, data):
        self.comments.append(data.strip())

    def _tables(self, tokens):
        tables, rows = {}, []
        for index, token in enumerate(tokens):
            if token.type == "tr_open":
                rows.append([])
            elif token.type in ("td_open", "th_open"):
                rows[-1] += self._texts(tokens[index : index + 2], token.type)
            elif token.type == "table_close":
                tables["|".join(rows[0])] = rows[1:]
                rows = []
        return tables

    @staticmethod
    def _texts(tokens, kind):
        """Return the plain text that follows each token of a kind."""
        return [
            "".join(p.content for p in after.children if p.type in ("text", "code_inline"))
            for token, after in pairwise(tokens)
            if token.type == kind
        ]


class WebPage(HTMLParser):
    """An HTML file.

    tags, attributes: names; open: tags that are never closed.
    texts: visible text of each innermost tag; titles, values: of attributes.
    addresses: of links and images; scripts: content of scripts and styles.
    """

    EMPTY = ("meta", "link", "img", "input", "br")

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.open = set(), set(), []
        self.texts, self.titles, self.addresses, self.values = [""], [], [], []
        self.scripts = []
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {key for key, _ in attrs}
        self.addresses += [value for key, value in attrs if key in ("src", "href")]
        self.values += [value for _, value in attrs if value]
        self.titles += [value for key, value in attrs if key == "title"]
        self.texts.append("")
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.texts.append("")

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts.append(data)
        else:
            self.texts[-1] += data


def open_data_uri(uri, kind):
    """Open the image of a data URI; kind: such as `png`."""
    head, data = uri.split(",", 1)
    assert head == f"data:image/{kind};base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))

"""What a page of Markdown is made of, beside its plain text."""

from html.parser import HTMLParser
from itertools import pairwise

from markdown_it import MarkdownIt


class Page(HTMLParser):
    """A file of Markdown as it is rendered.

    kinds: of its tokens; tags, comments: of its HTML; images: the addresses in that;
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
        """The plain text that follows each token of a kind."""
        return [
            "".join(p.content for p in after.children if p.type in ("text", "code_inline"))
            for token, after in pairwise(tokens)
            if token.type == kind
        ]

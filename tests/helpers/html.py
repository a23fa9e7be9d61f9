"""Reading of HTML pages, and the check that a page fetches nothing."""

import base64
import html.parser

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(html.parser.HTMLParser):
    """Parses a page and checks that every element is closed in order."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        """The text of the page, with single spaces."""
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        """Returns the attributes of every element with a tag."""
        return [attributes for name, attributes in self.elements if name == tag]

    def data(self, kind):
        """Returns the decoded data URIs of one media type."""
        found = [a.get("src") or a.get("href") or "" for _, a in self.elements]
        prefix = f"data:{kind};base64,"
        return [base64.b64decode(u.removeprefix(prefix)) for u in found if u.startswith(prefix)]


def assert_self_contained(page, links=()):
    """Asserts that a page holds everything it shows and runs no inline handlers.

    Args:
        page: A `Page`.
        links: Paths to which the page may link.
    """
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "poster", "action", "xlink:href"):
            if name in attributes and attributes[name] not in links:
                assert attributes[name].startswith("data:"), (tag, attributes[name])
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")

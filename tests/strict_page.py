"""A reader of HTML pages that stops at a wrong end tag, and notes what a page would load."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Reads a page strictly: notes tags, text and attributes, and stops at a wrong end tag."""

    VOID = ("meta", "img", "link", "br", "line", "polyline", "circle", "polygon", "rect")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text += text

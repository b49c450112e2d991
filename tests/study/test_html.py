import base64
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.study import definitions, details, figure, page, table, text

VOID = {"meta", "img"}


class Checker(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.texts, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parse(source):
    checker = Checker()
    checker.feed(source)
    checker.close()
    assert not checker.open
    return checker


def example(content):
    return page(
        content,
        [
            text("h1", content),
            text("p", content, style="answer"),
            table([content, "n"], [[content, "1"]], styles=[["", "good"]]),
            figure(b"<svg/>", content, description=content),
            details(content, text("p", content)),
            definitions([(content, content)]),
        ],
    )


@given(content=st.text(st.characters(blacklist_categories=("Cs", "Cc"))))
def test_no_text_can_become_markup(content):
    plain, checked = parse(example("x")), parse(example(content))
    assert checked.tags == plain.tags
    assert [name for name, _ in checked.attributes] == [name for name, _ in plain.attributes]
    if content.strip():
        assert sum(data == content for data in checked.texts) >= 6


def test_a_page_loads_nothing_and_runs_nothing():
    source = example("<script>alert(1)</script> & 'a' \"b\" https://example.org/x.js")
    checked = parse(source)
    assert "script" not in checked.tags
    assert not [name for name, _ in checked.attributes if name.startswith("on")]
    links = [value for name, value in checked.attributes if name in ("src", "href", "action")]
    assert links
    assert all(value.startswith("data:image/svg+xml;base64,") for value in links)
    assert not re.search(r"url\(|@import", source)
    policy = dict(checked.attributes)["content"]
    assert "width=device-width" in policy or "default-src 'none'" in source


def test_a_picture_is_in_the_page_as_it_was():
    svg = "<svg>ü & <b></svg>".encode()
    markup = figure(svg, "c", description="d").markup
    (src,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', markup)
    assert base64.b64decode(src) == svg


def test_columns_and_styles_of_a_table():
    markup = table(["a", "b"], [["x", "1"], ["y", "2"]], styles=[["", "bad"], ["", ""]]).markup
    assert '<td class="left">x</td><td class="bad">1</td>' in markup
    assert '<td class="left">y</td><td>2</td>' in markup
    with pytest.raises(ValueError, match="1 columns, the header 2"):
        table(["a", "b"], [["x"]])

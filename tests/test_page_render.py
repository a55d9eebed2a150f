import re

from imgnet_mini.reporting.page.render import render_page
from imgnet_mini.reporting.paired import PairedTest


def test_the_page_names_its_own_style_and_script_and_allows_nothing_else():
    comparison = {"names": ("a", "b"), "settings": (), "results": ()}
    values = {"comparison": comparison, "test": PairedTest(0, (), ()), "reported": (), "charts": []}
    html = render_page("compare.html.j2", **values)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives.pop("default-src") == "&#39;none&#39;"
    assert directives.pop("img-src") == "data:"
    assert directives.pop("base-uri") == directives.pop("form-action") == "&#39;none&#39;"
    assert set(directives) == {"style-src", "script-src"}
    assert all(
        re.fullmatch(r"&#39;sha256-[\w+/]{43}=&#39;", value) for value in directives.values()
    )
    assert html.count("<script") == html.count("</script") == 1
    assert html.count("<style") == html.count("</style") == 1
    assert not re.search(r"\son\w+=|\sstyle=|https?:", html)

"""What README and docs say runs, and what they link to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{i}")
    for page in PAGES
    for i, text in enumerate(SNIPPET.findall(page.read_text(encoding="utf-8")))
]


def test_there_are_snippets():
    assert len(SNIPPETS) >= 2


@pytest.mark.parametrize("text", SNIPPETS)
def test_snippet_runs(text, capsys):
    namespace: dict[str, object] = {}
    exec(compile(text, "snippet", "exec"), namespace)
    assert namespace, "the snippet defined nothing"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [
        link
        for link in links
        if not link.startswith(("http://", "https://")) and not (page.parent / link).exists()
    ]
    assert not broken


def test_readme_has_exactly_the_two_set_up_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for line in text.splitlines() if line.startswith("pip install")]
    assert commands == [
        "pip install '.[robustness]' && regrow robustness",
        "pip install '.[test]' && pytest",
    ]


def test_every_method_has_a_card():
    import regrow.methods

    cards = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    missing = [name for name in regrow.methods.__all__ if f"`{name}`" not in cards]
    assert not missing


def test_every_decision_is_listed():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    pages = [page.name for page in folder.glob("0*.md")]
    assert pages
    assert all(f"({name})" in index for name in pages)

"""The page as files: nothing from another host, nothing inline, everything named that must be."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from holdfast.demo.app import STATIC

FILES = sorted(STATIC.iterdir())
VOID = {"meta", "link", "input", "img", "br"}


class Page(HTMLParser):
    """What the tests need of the document: its elements with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline_scripts: list[str] = []
        self._open: list[str] = []
        self.feed((STATIC / "index.html").read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            continue

    def handle_data(self, data: str) -> None:
        if data.strip() and self._open and self._open[-1] in {"script", "style"}:
            self.inline_scripts.append(data)

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.elements if "id" in attributes]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_of_the_page_names_another_host(path: object) -> None:
    text = re.sub(r"http://www\.w3\.org/2000/svg", "", str(STATIC.joinpath(str(path)).read_text()))
    assert not re.findall(r"(?:https?:|wss?:|['\"(])//[\w.-]+", text)


def test_nothing_on_the_page_is_inline() -> None:
    page = Page()
    assert page.inline_scripts == []
    for _, attributes in page.elements:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]


def test_ids_are_unique_and_every_reference_to_one_holds() -> None:
    page = Page()
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-controls", "for"):
            assert set((attributes.get(name) or "").split()) <= set(ids)


def test_scripts_ask_only_for_elements_that_exist() -> None:
    ids = set(Page().ids())
    for path in STATIC.glob("*.js"):
        assert set(re.findall(r'\$\("([\w-]+)"\)', path.read_text())) <= ids, path.name


def test_everything_the_page_loads_is_there() -> None:
    loaded = [
        value
        for _, attributes in Page().elements
        for name in ("src", "href")
        if (value := attributes.get(name)) and value.startswith("assets/")
    ]
    imported = [
        f"assets/{name}"
        for path in STATIC.glob("*.js")
        for name in re.findall(r'from "\./([\w.-]+)"', path.read_text())
    ]
    assert loaded
    assert imported
    for value in {*loaded, *imported}:
        assert (STATIC / value.removeprefix("assets/")).is_file(), value


def test_controls_and_landmarks_have_names() -> None:
    page = Page()
    labelled = {attributes.get("for") for _, attributes in page.elements}
    tags = [tag for tag, _ in page.elements]
    assert {"header", "main", "nav", "aside"} <= set(tags)
    for tag, attributes in page.elements:
        if tag in {"nav", "aside", "section", "form"} and attributes.get("id") != "login":
            assert "aria-label" in attributes or "aria-labelledby" in attributes, attributes
        if tag == "input" and attributes.get("type") != "radio":
            assert attributes.get("id") in labelled


def test_events_become_text_and_never_markup() -> None:
    for path in STATIC.glob("*.js"):
        text = path.read_text()
        assert "innerHTML" not in text, path.name
        assert "insertAdjacentHTML" not in text, path.name
        assert "eval(" not in text, path.name

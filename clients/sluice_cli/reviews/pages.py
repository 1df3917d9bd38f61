"""Pages of reviews, in Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined, select_autoescape

from sluice_cli.calls import Problem, plain, words
from sluice_cli.reviews.pictures import Plot
from sluice_cli.rollout import views

_PAGE = "page.html.j2"
_OWN = resources.files("sluice_cli.reviews") / _PAGE
_MARKUP = frozenset("\\`*_[]<>|#")


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of one kind of review: templates `NAME.md.j2` and `NAME.html.j2`, and the values that they name."""

    templates: Traversable
    name: str
    values: Mapping[str, Any]

    def markdown(self, pictures: Sequence[tuple[Plot, str]] = ()) -> str:
        """Write a review in Markdown; `pictures` are plots with their files."""
        return self._rendered(f"{self.name}.md.j2", pictures)

    def html(self, pictures: Sequence[Plot]) -> str:
        """Write a review as a page that needs nothing else."""
        return self._rendered(f"{self.name}.html.j2", [(plot, plot.svg[plot.svg.index("<svg") :]) for plot in pictures])

    def write(
        self, draw: Callable[[], Sequence[Plot]], *, html: Path | None = None, markdown: Path | None = None
    ) -> list[Path]:
        """Write a review to files, and return them. Raises Problem."""
        pictures = draw()
        files: dict[Path, str] = {}
        if html is not None:
            files[html] = self.html(pictures)
        if markdown is not None:
            named = [(plot, f"{markdown.stem}-{plot.name}.svg") for plot in pictures]
            files |= {markdown.with_name(name): plot.svg for plot, name in named}
            files[markdown] = self.markdown(named)
        for path, text in files.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            except OSError as error:
                raise Problem(f"{path} cannot be written: {error.strerror or error}", "name another file") from None
        return list(files)

    def _rendered(self, template: str, pictures: Sequence[tuple[Plot, str]]) -> str:
        environment = Environment(
            # The name decides whether text is escaped.
            autoescape=select_autoescape(["html.j2"]),
            loader=DictLoader(
                {
                    template: (self.templates / template).read_text(encoding="utf-8"),
                    _PAGE: _OWN.read_text(encoding="utf-8"),
                }
            ),
            undefined=StrictUndefined,
            keep_trailing_newline=True,
        )
        environment.filters |= {
            "cell": cell,
            "clock": views.clock,
            "action": words,
            "share": views.share_words,
            "done": views.done_words,
        }
        return environment.get_template(template).render(plots=pictures, **self.values)


def cell(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    return "".join(f"\\{character}" if character in _MARKUP else character for character in plain(text))

"""The laboratory's page, as HTML and as Markdown: sections of text, figures and tables."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Table:
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Drawing:
    name: str
    """Of its file beside the Markdown page."""
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Picture:
    path: Path
    caption: str

    @property
    def data(self) -> str:
        """For a page that is one file."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode()


@dataclass(frozen=True)
class Section:
    title: str
    text: str
    drawings: Sequence[Drawing] = field(default=())
    pictures: Sequence[Picture] = field(default=())
    tables: Sequence[Table] = field(default=())


def write(title: str, meta: str, sections: Sequence[Section], folder: Path) -> None:
    """``index.html``, which needs no other file, and ``README.md`` with its figures beside it."""
    loader = ChoiceLoader([FileSystemLoader(HERE), PackageLoader("aiao_core.reports")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.get_template("page.html").render(title=title, meta=meta, sections=sections)
    (folder / "index.html").write_text(html, encoding="utf-8")

    style = environment.get_template("figures.css").render()
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for section in sections:
        for drawing in section.drawings:
            svg = str(drawing.svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
            svg = svg.replace(">", f"><style>{style}</style>", 1)
            (folder / "figures" / f"{drawing.name}.svg").write_text(svg, encoding="utf-8")
    (folder / "README.md").write_text(_markdown(title, meta, sections, folder), encoding="utf-8")


def _markdown(title: str, meta: str, sections: Sequence[Section], folder: Path) -> str:
    parts = [f"# {title}", meta]
    for section in sections:
        parts += [f"## {section.title}", section.text]
        parts += [f"![{drawing.caption}](figures/{drawing.name}.svg)\n\n{drawing.caption}" for drawing in section.drawings]
        for table in section.tables:
            lines = [table.headers, ["---"] * len(table.headers), *table.rows]
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
            if table.note:
                parts.append(table.note)
        parts += [f"![{shown.caption}]({shown.path.relative_to(folder)})\n\n{shown.caption}" for shown in section.pictures]
    return "\n\n".join(parts) + "\n"

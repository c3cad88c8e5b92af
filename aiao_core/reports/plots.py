"""A small plane for plots as inline SVG: no script, no web font, sharp in print. The page around it brings the colors."""

from collections.abc import Iterable

from markupsafe import Markup

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 42


class Plot:
    """A plane with axes. Its numbers and texts are this program's own: nothing in it comes from a client."""

    def __init__(self, label: str, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.label, self.x_range, self.y_range = label, x, y
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        low, high = self.x_range
        return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    def line(self, points: Iterable[tuple[float, float]], style: str) -> None:
        path = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
        self.parts.append(f'<polyline class="{style}" points="{path}"/>')

    def dot(self, x: float, y: float, style: str, radius: float = 4) -> None:
        self.parts.append(f'<circle class="{style}" cx="{self.x(x)}" cy="{self.y(y)}" r="{radius}"/>')

    def cell(self, x: tuple[float, float], y: tuple[float, float], opacity: float) -> None:
        left, top = self.x(x[0]), self.y(y[1])
        width, height = round(self.x(x[1]) - left, 1), round(self.y(y[0]) - top, 1)
        self.parts.append(
            f'<rect class="cell" x="{left}" y="{top}" width="{width}" height="{height}" opacity="{opacity:.2f}"/>'
        )

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "middle") -> None:
        self.parts.append(f'<text class="{style}" x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>')

    def axes(self, x_ticks: Iterable[float], y_ticks: Iterable[float], x_title: str, *, percent: bool = False) -> None:
        for value in y_ticks:
            self.line([(self.x_range[0], value), (self.x_range[1], value)], "grid")
            self.text(LEFT - 7, self.y(value) + 4, f"{value:.0%}" if percent else f"{value:g}", anchor="end")
        for value in x_ticks:
            self.text(self.x(value), HEIGHT - BOTTOM + 18, f"{value:g}")
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_title, "title")

    def svg(self) -> Markup:
        body = "".join(self.parts)
        return Markup(  # noqa: S704
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{self.label}">{body}</svg>'
        )

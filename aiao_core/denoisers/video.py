"""What families of videos share: x_t has frames before its rows and columns."""

from typing import ClassVar

from aiao_core.denoisers.family import MONTE_CARLO_SIDE, Config, DenoiserFamily

MONTE_CARLO_FRAMES = 2
"""Frames of x_t in verification if the model draws more."""


class Video(DenoiserFamily):
    """A family whose x_t is the latent of a video, (B, C, frames, rows, columns).

    Marks are trained on short and small clips: a whole one takes the memory of dozens of images, and a key works at every
    size. Frames are even in number, as CogVideoX 1.5 wants them.
    """

    side = 32
    frames: ClassVar[int] = 4
    positions = 4096  # frames * side**2

    def shape(self, config: Config) -> tuple[int, ...]:
        return config["in_channels"], self.frames, self.side, self.side

    def side_multiple(self, config: Config) -> int:
        patch = config["patch_size"]
        return int(patch if isinstance(patch, int) else patch[-1])

    def monte_carlo_shape(self, config: Config) -> tuple[int, ...]:
        channels, frames, rows, columns = self.shape(config)
        multiple = self.side_multiple(config)
        smallest = -(-MONTE_CARLO_SIDE // multiple) * multiple
        return channels, min(frames, MONTE_CARLO_FRAMES), min(rows, smallest), min(columns, smallest)

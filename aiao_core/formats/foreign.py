"""Name the files that people submit by mistake, by their first bytes, and say what to do instead. Torch-free."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

START_BYTES = 4096
"""How much of a file's beginning is looked at. Text, such as a web page, may begin with empty lines."""

_PACK = "unpack it, and pack the folder as .zip or .tar"
_CONVERTED = "submit the model that it was converted from, as safetensors"
_AGAIN = "the download went wrong: get the file again, signed in if the page asks for it"
_PYTORCH = "convert the model to PyTorch and submit it as safetensors"
_NO_MODEL = "submit the file of the model's weights"

MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs.github.com/spec/", "a git-LFS pointer, which stands for a file and is not that file",
     "run `git lfs pull` in the clone, or download the file itself"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _PACK),
    (b"Rar!\x1a\x07", "a RAR archive", _PACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard (.zst) archive", _PACK),
    (b"\x04\x22\x4d\x18", "an LZ4 archive", _PACK),
    (b"LZIP", "an lzip archive", _PACK),
    (b"MSCF", "a Windows cabinet archive", _PACK),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as TensorFlow and Keras write", _PYTORCH),
    (b"SQLite format 3\0", "an SQLite database, as Draw Things keeps its models in",
     "export the model from Draw Things, or submit the file that it was imported from"),
    (b"ptrt", "a TensorRT engine", _CONVERTED),
    (b"ftrt", "a TensorRT engine", _CONVERTED),
    (b"\x93NUMPY", "a NumPy array", _NO_MODEL),
    (b"\x89PNG\r\n\x1a\n", "a PNG image", _NO_MODEL),
    (b"\xff\xd8\xff", "a JPEG image", _NO_MODEL),
    (b"GIF8", "a GIF image", _NO_MODEL),
    (b"%PDF-", "a PDF document", _NO_MODEL),
    (b"\x7fELF", "a program", _NO_MODEL),
    (b"lmgg", "a GGML file, which is older than GGUF", "convert it to GGUF or safetensors"),
    (b"tjgg", "a GGML file, which is older than GGUF", "convert it to GGUF or safetensors"),
    (b"fmgg", "a GGML file, which is older than GGUF", "convert it to GGUF or safetensors"),
    (b"\0\5\x16\7", "an AppleDouble file, in which macOS keeps notes on another file",
     "submit the file without ._ before its name"),
    (b"L\0\0\0\1\x14\2\0", "a Windows shortcut", "submit the file that it leads to"),
)  # fmt: skip
"""The first bytes of kinds of files, each with the kind in words and what to do. None of them begins a file that is read."""

PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body|\?xml[^>]*>\s*<!doctype\s+html)", re.IGNORECASE)
NET = re.compile(rb"(?:<\?xml[^>]*>\s*)?<net\s", re.IGNORECASE)
ERROR = re.compile(rb"(?:<\?xml[^>]*>\s*)?<error>", re.IGNORECASE)
ONNX = re.compile(rb"\x08[\x01-\x20]\x12([\x01-\x40])([\x20-\x7e]{4})|\x08[\x01-\x20]\x3a")
"""Its version, and then its producer's name or at once the graph."""
CORE_ML = re.compile(rb"\x08[\x01-\x20]\x12[\x02-\xff][\x00-\x7f]{0,2}\x0a")
"""Its version, and then the description of its inputs."""
MSGPACK = re.compile(rb"(?:[\x81-\x8f]|\xde..)(?:[\xa1-\xbf]|\xd9.)[\x20-\x7e]", re.DOTALL)

SUFFIXES = {
    ".msgpack": ("a Flax msgpack file", _PYTORCH),
    ".onnx": ("an ONNX model", _CONVERTED),
    ".onnx_data": ("the numbers of an ONNX model", _CONVERTED),
    ".mlmodel": ("a Core ML model", _CONVERTED),
    ".mlpackage": ("a Core ML model", _CONVERTED),
    ".mlmodelc": ("a Core ML model", _CONVERTED),
    ".engine": ("a TensorRT engine", _CONVERTED),
    ".h5": ("an HDF5 file, as TensorFlow and Keras write", _PYTORCH),
    ".pb": ("a TensorFlow model", _PYTORCH),
    ".tflite": ("a TensorFlow Lite model", _CONVERTED),
    ".distcp": ("a part of a distributed PyTorch checkpoint",
                "join its parts with torch.distributed.checkpoint.format_utils and submit the result"),
    ".7z": ("a 7z archive", _PACK),
    ".rar": ("a RAR archive", _PACK),
    ".zst": ("a Zstandard (.zst) archive", _PACK),
}  # fmt: skip
"""Kinds of files that have no first bytes of their own, by the ends of their names, of a file or of a folder around it."""

NESTED = dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz"), ("an archive", "unpack it there"))
"""Inside a folder; by themselves they are read."""

ORDINARY = {
    ".json", ".jsonl", ".md", ".txt", ".html", ".py", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".pdf", ".yaml", ".yml", "",
}  # fmt: skip
"""The ends of names of files that lie beside weights anyway."""

MAX_NAMED = 5
"""Most kinds of files that a message names."""

MAX_LOOKED_AT = 1000
"""Most files of a folder that are looked at to say what it holds instead of weights."""


def in_words(start: bytes, size: int, name: str) -> str | None:
    """Return what a file is and what to do; None if neither its first bytes, ``start``, nor the end of its name tells."""
    return _sentence(_named(start, size) or SUFFIXES.get(PurePosixPath(name).suffix.lower()))


def is_named(path: Path) -> bool:
    """Return whether the names of a file and of the folders around it say that it is a foreign one."""
    return _by_name(path) is not None


def by_place(path: Path) -> str | None:
    """Return the same by the names of the file, of the folders around it and of the files beside it."""
    return _sentence(_by_name(path))


def instead(folder: Path, files: Iterable[Path]) -> str:
    """Return in words which foreign files a folder without weights holds, and what to do; nothing if it holds none."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for _, file in zip(range(MAX_LOOKED_AT), files, strict=False):
        if file.suffix.lower() not in ORDINARY and (
            found := _by_content(file) or _by_name(file) or NESTED.get(file.suffix.lower())
        ):
            kinds.setdefault(found, []).append(file.relative_to(folder).as_posix())
    told = []
    for (kind, advice), names in kinds.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        told.append(f"{names[0]}{more} is {kind}: {advice}")
    return f"; {'; '.join(told[:MAX_NAMED])}" if told else ""


def _sentence(found: tuple[str, str] | None) -> str | None:
    return found and f"this is {found[0]}; {found[1]}"


def _named(start: bytes, size: int) -> tuple[str, str] | None:
    if size == 0:
        return "an empty file", _AGAIN
    for magic, kind, advice in MAGIC:
        if start.startswith(magic):
            return kind, advice
    if len(start) >= min(size, 64) and not any(start):
        return "a file that begins with zero bytes alone, as an interrupted download leaves it", _AGAIN
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if PAGE.match(text):
        return "a web page and not the file that it offers", _AGAIN
    if NET.match(text):
        return "the description of an OpenVINO model", _CONVERTED
    if ERROR.match(text):
        return "an error message of a file server", _AGAIN
    if text[:1] in (b"{", b"[") and _is_text(start):
        return (
            "JSON: a configuration, or a server's error message",
            "submit the weights that belong to it, or get the file again",
        )
    if size <= START_BYTES and _is_readable(start):
        return "a short text, perhaps a server's error message", _AGAIN
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WebP image", _NO_MODEL
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model", _CONVERTED
    if ONNX.match(start):
        return "an ONNX model", _CONVERTED
    if CORE_ML.match(start):
        return "a Core ML model", _CONVERTED
    return SUFFIXES[".msgpack"] if MSGPACK.match(start) else None


def _by_content(path: Path) -> tuple[str, str] | None:
    try:
        with path.open("rb") as file:
            return _named(file.read(START_BYTES), path.stat().st_size)
    except OSError:
        return None


def _by_name(path: Path) -> tuple[str, str] | None:
    if path.suffix == ".bin" and (beside := _by_content(path.with_suffix(".xml"))) and "OpenVINO" in beside[0]:
        return "the numbers of an OpenVINO model", _CONVERTED
    for part in (path, *list(path.parents)[:4]):
        if found := SUFFIXES.get(part.suffix.lower()):
            return found
    return SUFFIXES[".mlmodel"] if "com.apple.CoreML" in path.parts[-4:] else None


def _is_text(start: bytes) -> bool:
    return all(byte >= 0x20 or byte in b"\t\r\n" for byte in start)


def _is_readable(content: bytes) -> bool:
    try:
        return content.decode("utf-8").replace("\n", "").replace("\r", "").replace("\t", "").isprintable()
    except UnicodeDecodeError:
        return False

"""The process of one reader in :mod:`benchmarks.fuzzing`: arguments are its name and libFuzzer's."""

import sys

import atheris

with atheris.instrument_imports(include=["aiao", "aiao_core", "service", "zipfile", "tarfile", "json", "gguf", "base64"]):
    from tests.fuzzing.readers import READERS, try_out


def main() -> None:
    name = sys.argv.pop(1)

    def read(content: bytes) -> None:
        try_out(READERS[name], content)

    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Variables from a file such as ``.env``: for the command line alone, where they are not set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def read_dotenv(path: Path) -> None:
    """Set what *path* says and the environment does not. No such file: nothing.

    Raises:
        ConfigurationError: the file is there and cannot be read.
    """
    from dotenv import dotenv_values

    from holdfast.settings import fill_environment

    if not path.is_file():
        return
    try:
        values = dotenv_values(path, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    fill_environment(values, str(path))

"""`holdfast serve`: any application with sessions and streams around it, in uvicorn."""

from __future__ import annotations

import copy
from pathlib import Path

import click

from holdfast.cli import missing
from holdfast.cli.dotenv import read_dotenv


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument(
    "arguments", metavar="PACKAGE.MODULE:APP [OPTIONS]", nargs=-1, type=click.UNPROCESSED
)
def serve(arguments: tuple[str, ...]) -> None:
    """Serve any app as it is, with sessions and event streams.

    APP is package.module:name, ASGI or WSGI or a factory of either. Sessions are put around it, the
    streams beside it at HOLDFAST_STREAM_MOUNT. The options are those of uvicorn.
    """
    try:
        from uvicorn.main import main
    except ModuleNotFoundError:
        missing("uvicorn")
    from holdfast.settings import Settings, fill_environment

    command = copy.copy(main)
    command.help = click.get_current_context().command.help
    help_asked = arguments[:1] in {("-h",), ("--help",)}
    asked = command.make_context("holdfast serve", ["--help"] if help_asked else list(arguments))
    app = asked.params["app"]
    if asked.params["env_file"]:
        # uvicorn reads it in each process, after this one has looked at the settings.
        read_dotenv(Path(asked.params["env_file"]))
    fill_environment({"HOLDFAST_APP": app}, "the command line", over=True)
    Settings(app=app).check_workers(asked.params["workers"])
    # Of the application holdfast.asgi:app finds out whether it is a factory, and what it speaks.
    asked.params |= {"app": "holdfast.asgi:app", "factory": False, "interface": "asgi3"}
    with asked:
        command.invoke(asked)

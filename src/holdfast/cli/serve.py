"""`holdfast serve`: any application with sessions and streams around it, in uvicorn."""

from __future__ import annotations

import click

from holdfast.cli import missing


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("app", metavar="PACKAGE.MODULE:APP")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def serve(app: str, options: tuple[str, ...]) -> None:
    """Serve an app that nobody has to touch: sessions around it, streams beside it.

    The app may be ASGI or WSGI. OPTIONS are those of uvicorn: --host, --port, --workers, --reload
    and all others; `holdfast serve --help` lists them.
    """
    try:
        from uvicorn.main import main
    except ModuleNotFoundError:
        missing("uvicorn")
    from holdfast.settings import Settings, fill_environment

    arguments = ["holdfast.asgi:app", *options]
    if app in {"-h", "--help"}:
        arguments = ["--help"]
    else:
        fill_environment({"HOLDFAST_APP": app}, "the command line", over=True)
        asked = main.make_context("holdfast serve", list(arguments))
        Settings(app=app).check_workers(asked.params["workers"])
    main.main(arguments, prog_name="holdfast serve")

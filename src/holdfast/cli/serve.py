"""`holdfast serve`: any application with sessions and streams around it, in uvicorn."""

from __future__ import annotations

import click

from holdfast.cli import missing


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument(
    "arguments", metavar="PACKAGE.MODULE:APP [OPTIONS]", nargs=-1, type=click.UNPROCESSED
)
def serve(arguments: tuple[str, ...]) -> None:
    """Serve an app that nobody has to touch: sessions around it, streams beside it.

    The app may be ASGI or WSGI, or a factory of one. OPTIONS are those of uvicorn: --host, --port,
    --workers, --reload and all others; `holdfast serve --help` lists them.
    """
    try:
        from uvicorn.main import main
    except ModuleNotFoundError:
        missing("uvicorn")
    from holdfast.settings import Settings, fill_environment

    help_asked = arguments[:1] in {("-h",), ("--help",)}
    asked = main.make_context("holdfast serve", ["--help"] if help_asked else list(arguments))
    app = asked.params["app"]
    fill_environment({"HOLDFAST_APP": app}, "the command line", over=True)
    Settings(app=app).check_workers(asked.params["workers"])
    # holdfast.asgi:app is no factory, and finds out whether the application is one.
    asked.params |= {"app": "holdfast.asgi:app", "factory": False}
    with asked:
        main.invoke(asked)

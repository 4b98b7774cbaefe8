"""`python -m holdfast.cli`: the command line where no script is on the path."""

from holdfast.cli import main

main()

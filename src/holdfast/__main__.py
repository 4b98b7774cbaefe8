"""`python -m holdfast`: the command line where no script is on the path. Nothing else."""

from holdfast.cli import main

if __name__ == "__main__":
    main()

"""Entry point of `python -m dalle_cli` and of the `dalle` command."""

from dalle_cli.cli.main import main

if __name__ == "__main__":
    main()

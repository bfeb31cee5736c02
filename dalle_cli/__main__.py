"""Entry point of `python -m dalle_cli` and of the `dalle` command."""

import sys

try:
    from dalle_cli.cli.main import main
except KeyboardInterrupt:
    sys.stderr.write("stopped\n")
    sys.exit(130)

if __name__ == "__main__":
    main()

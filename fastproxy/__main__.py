"""`python -m fastproxy` and the `fastproxy` command."""

import sys


def main() -> int:
    """Run the command line; the exit code."""
    from fastproxy import cli

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

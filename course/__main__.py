"""python -m course COMMAND …; the commands are in course/cli.py."""

import sys


def main():
    """Run the command line on this process's arguments; returns the exit code."""
    try:
        from course import cli  # here, because where nothing is installed click is missing
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        return without_click(sys.argv[1:])
    return cli.main()


def without_click(arguments):
    """What works where the course's packages are missing: the machine check, which says so."""
    from helpers import machine  # here, because nothing else needs it

    if arguments[:1] == ["check"]:
        return machine.main()
    print(f"The course's packages are missing: {machine.SETUP}.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""The command line: one command with sub-commands, declared here and each at home in its module.

What a command needs is imported when it is called: together the modules take seconds to load, and
--help and most refusals should not wait for that.

Exit codes: 0 done, 1 a notebook failed, a file was altered or something is missing, 2 wrong usage,
130 interrupted.
"""

import sys

import click

from course import wheels

NUMBERS = ("01", "02", "03", "04", "05")
CONTENTS = {  # the help's sections
    "To learn": ("check", "model", "catch-up"),
    "To run without looking": ("run", "verify"),
    "To teach": ("bundle", "handouts"),
    "To maintain the course": ("exercises", "refresh", "figures"),
}


class TableOfContents(click.Group):
    """A group of commands whose help lists them by who needs them."""

    def list_commands(self, context):
        return [name for names in CONTENTS.values() for name in names]

    def format_commands(self, context, formatter):
        for title, names in CONTENTS.items():
            with formatter.section(title):
                lines = [(name, self.commands[name].get_short_help_str(80)) for name in names]
                formatter.write_dl(lines)


@click.group(cls=TableOfContents, context_settings={"help_option_names": ["-h", "--help"]})
def commands():
    """Fine-tune Llama 3 with LoRA on your own data: a course in five notebooks.

    `COMMAND --help` says more. To have your shell complete commands and options, once the course is
    installed, put `eval "$(_COURSE_COMPLETE=bash_source course)"` into ~/.bashrc, or the same with
    zsh_source into ~/.zshrc.
    """


def main(arguments=None):
    """Run the command line on `arguments` (list of str, this process's by default).

    Returns the exit code.
    """
    try:
        return commands.main(arguments, standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:  # which click makes of Ctrl-C
        print(
            "Interrupted. The same command goes on from the last finished step or checkpoint.",
            file=sys.stderr,
        )
        return 130


def parameters(command):
    """Add the options that say where results go and which parameters the notebooks get."""
    options = (
        click.option(
            "--run-dir",
            default="",
            metavar="DIR",
            help="Where results go (default: runs/default).",
        ),
        click.option("--params", default="", metavar="FILE.yaml", help="Parameters from a file."),
        click.option(
            "-p",
            "values",
            nargs=2,
            multiple=True,
            metavar="NAME VALUE",
            help="One parameter; may be repeated.",
        ),
    )
    for option in reversed(options):  # click lists them the other way round
        command = option(command)
    return command


@commands.command()
def check():
    """Is this machine ready? OK, warning or FAIL, and the next step.

    Exit code 1 when something is missing without which the course cannot run.
    """
    from helpers import machine

    return machine.main()


@commands.command()
def model():
    """Fetch the default model into the cache, unless it is there."""
    from helpers.model import default_model
    from helpers.records import weights

    if not default_model.cache_folder().is_dir():
        from helpers.model import loading  # loads torch; a model that is there need not wait for it

        loading.quiet()
    try:
        default_model.fetch()
    except default_model.ModelError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{weights.DEFAULT_MODEL} is ready in the cache.")


@commands.command("catch-up")
@click.argument("number", type=click.Choice(NUMBERS))
@parameters
@click.option(
    "--from-run",
    default="",
    metavar="DIR",
    help="A finished run to copy from (default: runs/finished, then runs/default).",
)
def catch_up(number, from_run, **options):
    """Fill in what comes before a notebook, so that it can start.

    NUMBER is the notebook to start at, 01 to 05. What is there and whole is kept; what a finished
    run has, with the same parameters, data and model, is copied; the rest is run. It says first how
    long that takes.
    """
    from course import catch_up, run
    from course.options import Options

    wanted = Options(first=number, **options)
    return run.exit_code(lambda: catch_up.fill_in(wanted, from_run), wanted.run_dir)


@commands.command()
@parameters
@click.option("--from", "first", default="01", metavar="NN", help="First notebook (01).")
@click.option("--until", "last", default="05", metavar="NN", help="Last notebook (05).")
@click.option("--force", is_flag=True, help="Run finished steps again.")
@click.option("--processes", type=int, metavar="N", help="Train in 03 on N processes, one per GPU.")
@click.option(
    "--accelerate-config",
    default="",
    metavar="FILE.yaml",
    help="How 03 is spread over devices.",
)
@click.option(
    "--grid",
    default="",
    metavar="FILE.yaml",
    help="Lists of values: one run for each combination.",
)
@click.option(
    "--prepare",
    is_flag=True,
    help="Run nothing: write copies to step through by hand into DIR/notebooks.",
)
def run(grid, prepare, **options):
    """Run the notebooks in order, with parameters of yours or without.

    Steps whose inputs have not changed are skipped.

    With --prepare nothing is run. DIR/notebooks gets copies without outputs and with the parameters
    in place, to open in JupyterLab: for stepping through a parameter file such as
    notebooks/params/llama3-8b-t4.yaml by hand, or for a class that should guess before a cell
    prints. Their results go to DIR. Copies that are there already are replaced with --force only.

    Exit codes: 0 done, 1 a notebook failed (the message says which cell and why), 2 wrong usage,
    130 interrupted: the same command then goes on.
    """
    from course import run
    from course.options import Options

    wanted = Options(**options)

    def work():
        if prepare:
            from course import prepare as prepared

            return prepared.copies(wanted, grid)
        if grid:
            return run.course_of_grid(wanted, grid)
        return run.show_results(run.course(wanted))

    return run.exit_code(work, wanted.run_dir)


@commands.command()
@click.argument("run_dir")
def verify(run_dir):
    """Is a run directory as its notebooks wrote it?

    Names the files in RUN_DIR that were altered, are missing or were added. Exit codes: 0 all is as
    it was, 1 something is not, 2 no notebook has been finished there.
    """
    from course import verify

    return verify.verify(run_dir)


@commands.command()
@click.option(
    "--platform",
    "platform",
    multiple=True,
    type=click.Choice(list(wheels.PLATFORMS)),
    help="May be repeated (default: this machine's).",
)
@click.option(
    "--python", multiple=True, metavar="3.11", help="May be repeated (default: this one)."
)
@click.option(
    "--run",
    default="",
    metavar="DIR",
    help="A finished run, so that nobody needs to train to catch up.",
)
@click.option("--out", default="", metavar="FILE.zip", help="Default: in build/.")
def bundle(platform, python, run, out):
    """One archive for a classroom without network.

    It holds the repository, wheels, the default model and checksums. Wheels come from where pip is
    configured to look. classroom/README.md lies on top and says how to install it.
    """
    from course import bundle

    return bundle.bundle(platform, python, run, out)


@commands.command()
@click.argument("folder", default="")
def handouts(folder):
    """The notebooks with their outputs as pages that need no network.

    They are written into FOLDER, html/ by default.
    """
    from course import handouts

    handouts.make(folder)


@commands.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--run", "run_first", is_flag=True, help="Run the solutions first and keep outputs.")
@click.option("--check", "only_check", is_flag=True, help="Only say which are out of step.")
def exercises(names, run_first, only_check):
    """Make the learners' exercises from their solutions.

    Of all of them, or of those whose NAME is given, e.g. 01_data. With --check nothing is written,
    and the exit code is 1 when a learners' version is out of step.
    """
    from course import exercises, refresh

    if only_check:
        return exercises.check()
    return refresh.exit_code(lambda: exercises.make(names, run_first))


@commands.command()
@click.option(
    "--from",
    "first",
    default="01",
    type=click.Choice((*NUMBERS, "extras")),
    help="Leave those before it as they are; their results must be in the run directory.",
)
def refresh(first):
    """Run the committed notebooks and store their outputs in them.

    The five lessons on their defaults, then the extras; only when all succeed. Also brings set-up
    cells and badges in line with pyproject.toml.
    """
    from course import refresh

    return refresh.exit_code(lambda: refresh.refresh(first))


@commands.command()
@click.argument("run_dir", default="")
def figures(run_dir):
    """Put the figures of a finished run into README, guide and lessons.

    RUN_DIR (runs/default) holds a run of all five notebooks on their defaults and with the code
    that is here. Its figures go to docs/figures.json, and from there to wherever a text has a
    marker such as <!-- figures: scores -->.
    """
    from course import figures

    return figures.main(run_dir)

"""The console script ``advbench``: its commands, and what a person sees when something goes wrong.

A command's module is imported when the command runs: ``advbench.cli.<name>`` with a click command ``command``.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

import click

from advbench import __version__
from advbench.errors import AdvbenchError, SuiteError
from advbench.evidence.leaderboard import visible

COMMANDS = {
    "run": "Run a suite and write its leaderboard.",
    "plan": "Show what a run would do; load no data, build no network.",
    "validate": "Check suites and report every mistake with its line.",
    "list": "List models, datasets, perturbations, defenses and the like.",
    "info": "Describe a component: parameters, tags, reference.",
    "compare": "Compare runs row by row: differences, intervals, p-values.",
    "rank": "Order the rows of a run; mark what cannot be told apart.",
    "merge": "Put the rows of several runs together, one for each cell.",
    "rerun": "Compute a run again and say whether its figures agree.",
    "export": "Write a leaderboard as Markdown, LaTeX, JSON or parquet.",
    "check": "Check components against the contract of plugins.",
    "report": "Write one HTML page about runs that works offline.",
    "cache": "Look at, verify or clean the cache.",
    "doctor": "Show versions, device, plugins, data folders and what is broken.",
}

USER_ERROR, INTERRUPTED = 2, 3

EPILOG = """\b
Examples:
  advbench list perturbations
  advbench info attacks/pgd
  advbench plan suites/lsst.yaml
  advbench run suites/lsst.yaml --limit 100 --only model=convnet
  advbench run suites/mnist.yaml --data ~/data --workers 2

\b
Exit codes of `run`:
  0  every row is ok or skipped      2  a mistake to mend, told in one line
  1  some rows failed                3  interrupted; what is finished is kept

\b
Environment variables:
  ADVBENCH_CACHE            folder of the cache
  ADVBENCH_DATA             data folders, separated as in PATH
  ADVBENCH_PLUGINS          only these plugins (namespaces, separated by commas)
  ADVBENCH_DISABLE_PLUGINS  all plugins but these
  ADVBENCH_PLUGINS_DIR      more folders of plugins, separated as in PATH"""


class Commands(click.Group):
    """A group that knows its commands by name and imports the one that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which one needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"advbench.cli.{cmd_name}").command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a proposal for a name that is not known."""
        name = args[0]
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        if name not in COMMANDS and not name.startswith("-"):
            hint = f" (did you mean {near[0]!r}?)" if near else f"; there are {', '.join(COMMANDS)}"
            ctx.fail(f"no such command {name!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="advbench")
def commands() -> None:
    """Benchmark the robustness of neural networks: models x datasets x perturbations x defenses.

    A suite is a YAML file that declares the grid; `advbench run SUITE` evaluates all of it and writes one
    leaderboard.
    """


def main() -> None:
    """Entry point of the console script."""
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: Sequence[str]) -> int:
    """Run a command line; returns its exit code. A bug is raised on, with its traceback."""
    try:
        code = commands.main(list(arguments), prog_name="advbench", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except AdvbenchError as error:
        tell(error)
        return USER_ERROR


def tell(error: AdvbenchError) -> None:
    """Say what is wrong, one line for each mistake."""
    lines = [str(problem) for problem in error.problems] if isinstance(error, SuiteError) else [str(error)]
    for line in lines:
        click.echo(
            click.style("error: ", fg="red", bold=True) + "\n".join(map(visible, line.split("\n"))), err=True
        )

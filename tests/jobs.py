"""The script of a rule, run as Snakemake runs it, but in a forked process: no start-up and no imports."""

import os
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake.iocontainers import InputFiles, Log, OutputFiles, Params, ResourceList, Snakemake, Wildcards

SCRIPTS = Path(__file__).parents[1] / "workflow" / "scripts"
Files = Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """A rule's script and what its rule would give it; paths are relative to the folder in which it runs."""

    script: str
    input: Files
    output: Files
    params: Mapping[str, Any] | None = None
    wildcards: Mapping[str, str] | None = None
    config: Mapping[str, Any] | None = None

    def run(self, folder: Path) -> "Done":
        """Run in ``folder``, as a process of its own; its log is ``folder/job.log``."""
        terminal = folder / "terminal.log"
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            done = Done(os.waitstatus_to_exitcode(status), terminal.read_text(), (folder / "job.log").read_text())
            terminal.unlink()
            (folder / "job.log").unlink()
            return done
        os._exit(self._run_and_exit(folder, terminal))

    def _run_and_exit(self, folder: Path, terminal: Path) -> int:
        os.chdir(folder)
        descriptor = os.open(terminal, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))  # pytest has others
        try:
            runpy.run_path(str(SCRIPTS / self.script), {"snakemake": self._snakemake()})
        except SystemExit as exit:
            return exit.code
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            return 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        return 0

    def _snakemake(self) -> Snakemake:
        return Snakemake(
            _named(InputFiles, self.input),
            _named(OutputFiles, self.output),
            _named(Params, self.params or {}),
            _named(Wildcards, self.wildcards or {}),
            1,
            _named(ResourceList, {}),
            _named(Log, ["job.log"]),
            dict(self.config or {"hardware": {"gpu": 0}}),
            self.script,
            None,
        )


@dataclass(frozen=True)
class Done:
    """How a job ended: exit status, what it wrote to the terminal, and its log."""

    status: int
    terminal: str
    log: str


def _named(kind: type, values: Files):
    """A list of Snakemake's, with names; a list under a name is several files, or none."""
    if not isinstance(values, Mapping):
        return kind(toclone=values)
    made = kind()
    for name, value in values.items():
        start = len(made)
        several = kind is InputFiles and isinstance(value, list)
        made.extend(value if several else [value])
        made._set_name(name, start, end=len(made) if several else None)
    return made

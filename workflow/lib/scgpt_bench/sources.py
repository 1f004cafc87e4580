"""Which code a job runs, by hashes: the script and every module of this package that it imports.

Snakemake follows a script by its modification time and does not follow what it imports. With these hashes among a
rule's parameters, an edited module reruns exactly the jobs that use it, and a fresh clone reruns nothing. Comments,
docstrings and blank lines do not count: they change no result. Trainings follow :mod:`scgpt.recipe_version` instead.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from pathlib import Path

PACKAGE = Path(__file__).parent

# Modules that carry names, messages, files and table rows (which are parameters of the jobs) or start processes, and
# compute no number; and what only they import. Up to the predictions they do not count: whatever runs again there makes
# Snakemake train and predict again, hours on GPUs for a clearer message. Where such an edit does change a result after
# all, rerun by hand: snakemake --forcerun RULE.
PLUMBING = {
    "__init__.py",
    "data/__init__.py",
    "data/catalogue.py",
    "data/file_kinds.py",
    "data/findings.py",
    "data/names.py",
    "errors.py",
    "files.py",
    "job.py",
    "methods/__init__.py",
    "nodes.py",
    "scgpt/__init__.py",
}
# Its values are parameters of the jobs, which Snakemake compares itself: an edit reruns the jobs that get another one.
PARAMETERS = {"options.py"}


def modules_used(script: str | Path) -> list[Path]:
    """List the modules of this package that ``script`` imports, directly or through each other, sorted."""
    found: set[Path] = set()
    waiting = [Path(script)]
    while waiting:
        new = _imports(waiting.pop().read_text(), PACKAGE) - found
        found |= new
        waiting += new
    return sorted(found)


@functools.cache  # many scripts use the same modules, and every job reads the workflow again
def _imports(code: str, package: Path) -> frozenset[Path]:
    """Find the modules of ``package`` that ``code`` imports directly."""
    names = []
    for node in _statements(code):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # The names imported from a package may be modules of it.
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    modules = [name.split(".")[1:] for name in names if name.split(".")[0] == package.name]
    candidates = [package.joinpath(*module) for module in modules]
    files = [file for path in candidates for file in (path.with_suffix(".py"), path / "__init__.py")]
    return frozenset(file for file in files if file.is_file())


@functools.cache
def _statements(code: str) -> list[ast.AST]:
    """List the statements of ``code``, those inside others too; the first is the module itself."""
    found: list[ast.AST] = [ast.parse(code)]
    for node in found:  # grows on the way
        for block in ("body", "orelse", "handlers", "finalbody", "cases"):
            found += getattr(node, block, [])
    return found


def content_hashes(script: str | Path, plumbing: bool = True) -> dict[str, str]:
    """Hash (16 hexadecimal digits) the code of a script and of each module of this project that it runs.

    By name: a dry run names the file that was edited. Modules of :data:`PARAMETERS` do not count, nor do those of
    :data:`PLUMBING` without ``plumbing``.
    """
    modules = {path.relative_to(PACKAGE).as_posix(): path for path in modules_used(script)}
    files = {Path(script).name: Path(script)}
    left_out = PARAMETERS if plumbing else PARAMETERS | PLUMBING
    files |= {name: path for name, path in modules.items() if name not in left_out}
    return {name: _hash_of_code(path.read_text()) for name, path in files.items()}


# A string, or a comment outside of one. A backslash hides what follows in every kind of string.
_STRING_OR_COMMENT = re.compile(
    r"""(\"{3}|'{3})(?:\\.|.)*?\1 | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | [ \t]*\#[^\n]*""",
    re.DOTALL | re.VERBOSE,
)
_LINE_OF_A_STRING = "\0"  # no Python file holds it


@functools.cache
def _hash_of_code(code: str) -> str:
    """Hash Python code without comments, docstrings and blank lines, alike in every version of Python."""
    lines = code.split("\n")
    for node in _statements(code):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            start, end = first.lineno - 1, first.end_lineno or first.lineno
            # A docstring that shares its line with code stays.
            behind = lines[end - 1].encode()[first.end_col_offset :].decode().strip()
            if not lines[start][: first.col_offset].strip() and (not behind or behind.startswith("#")):
                lines[start:end] = [""] * (end - start)
    kept = _STRING_OR_COMMENT.sub(_without_comments, "\n".join(lines))
    kept = "\n".join(line for line in kept.split("\n") if line.strip()).replace(_LINE_OF_A_STRING, "\n")
    return hashlib.sha256(kept.encode()).hexdigest()[:16]


def _without_comments(found: re.Match[str]) -> str:
    text = found[0]
    return "" if text.lstrip().startswith("#") else text.replace("\n", _LINE_OF_A_STRING)


def folder_hash(folder: str | Path) -> str:
    """Hash names and bytes of all files below ``folder``, without compiled modules, to 16 hexadecimal digits."""
    digest = hashlib.sha256()
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    for path in files:
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]

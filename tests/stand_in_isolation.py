"""Inside an environment under test: hide what only the environment of Snakemake itself holds.

Snakemake appends its own packages to the path of each script, so that the script finds the module `snakemake`. A
package that an environment does not declare would be found there too, on the author's machine and not on the user's.
"""

import builtins
import sys
from importlib.machinery import PathFinder
from pathlib import Path

INSIDE = str(Path(sys.prefix))
original_import = builtins.__import__


def outside(path):
    """Whether a file is among the packages of another environment."""
    return bool(path) and "/site-packages/" in path and not path.startswith(INSIDE)


def hidden(name, location):
    """What Snakemake imports for itself is its own affair; `snakemake` is what it gives to scripts."""
    return outside(location) and name != "snakemake" and not outside(importer())


def importer():
    """The file that asks for a module."""
    frame = sys._getframe(1)
    while frame and (frame.f_code.co_filename == __file__ or "importlib" in frame.f_code.co_filename):
        frame = frame.f_back
    return frame and frame.f_code.co_filename


class Inside(PathFinder):
    """Finds packages as ever, but for hidden ones."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target)
        if spec and path is None:
            location = spec.origin or next(iter(spec.submodule_search_locations or []), "")
            if hidden(name, location):
                return None
        return spec


def guarded_import(name, globals=None, locals=None, fromlist=(), level=0):
    """Import, but not what Snakemake has loaded for itself and the environment lacks."""
    module = original_import(name, globals, locals, fromlist, level)
    package = name.partition(".")[0]
    if level == 0 and hidden(package, getattr(sys.modules.get(package), "__file__", "")):
        raise ModuleNotFoundError(f"No module named {name!r} in {INSIDE}", name=name)
    return module


sys.meta_path[sys.meta_path.index(PathFinder)] = Inside
builtins.__import__ = guarded_import

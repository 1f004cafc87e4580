"""A fault in one file of one job, as Python starts: this folder on PYTHONPATH, ``FAULT`` and ``FAULT_FILE`` set.

When a script of the workflow gives a file the name ``FAULT_FILE``, the file comes late (``FAULT=late 8``: after so many
seconds), never (``never``), or the script is killed as for want of memory (``killed``), the first time only.
"""

import os
import signal
import subprocess
import sys

SHOW = 'sleep "$0" && mv "$1" "$2"'
given = os.replace


def replace(source, destination, **options):
    if os.path.basename(destination) != os.environ["FAULT_FILE"]:
        return given(source, destination, **options)
    fault, *seconds = os.environ["FAULT"].split()
    if fault == "late":
        command = ["sh", "-c", SHOW, *seconds, os.path.abspath(source), os.path.abspath(destination)]
        subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    elif fault == "killed":
        try:
            os.close(os.open("killed_once", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return given(source, destination, **options)
        os.kill(os.getpid(), signal.SIGKILL)


if "FAULT" in os.environ and any(".snakemake/scripts/" in argument for argument in sys.orig_argv):
    os.replace = replace

"""A program called ``garak`` that writes what a real one wrote, or ends as it is told to.

What a run does is told by files in its folder: ``RUN.stuck``, ``.killed``, ``.crashing`` (with a
traceback, before it asks), ``.unable`` (it has no detector, and ends well) and ``.broken`` (it ends
when it has asked).
"""

from __future__ import annotations

import sys
from pathlib import Path

from kit.reports.garak_files import FOLDER

GARAK = f"""\
#!{sys.executable} -I
import json, os, signal, sys, time
from pathlib import Path
recorded, here = Path({str(FOLDER)!r}), Path.cwd()
if sys.argv[1] == "--list_probes":
    print((recorded / "listing.txt").read_text(encoding="utf-8"))
    sys.exit()
run = sys.argv[2].removesuffix(".yaml")
side, probe = run.split("-")[0], json.loads(Path(sys.argv[2]).read_text())["run"]["spec"]["include"]
out = Path(os.environ["XDG_DATA_HOME"], "garak", "garak_runs")
out.mkdir(parents=True, exist_ok=True)
(here / f"{{run}}.begun").touch()
if (here / f"{{run}}.stuck").exists():
    time.sleep(600)
if (here / f"{{run}}.killed").exists():
    os.kill(os.getpid(), signal.SIGKILL)
if (here / f"{{run}}.crashing").exists():
    raise IndexError("list index out of range")
if (here / f"{{run}}.unable").exists():
    print("detector load failed: x.Y")
    print("No detectors, nothing to do")
    sys.exit()
lines = []
for line in (recorded / f"{{side}}.report.jsonl").read_text(encoding="utf-8").splitlines(True):
    of = json.loads(line)
    if of.get("probe_classname", of.get("probe", probe[0][7:])) == probe[0][7:]:
        lines.append(line)
if (here / f"{{run}}.broken").exists():
    lines = lines[:3]
    print("ValueError: what a model said")
(out / f"{{run}}.report.jsonl").write_text("".join(lines), encoding="utf-8")
"""


def put_recorded_garak(folder: Path) -> Path:
    """Put the program into a folder, for a search path; return the folder."""
    program = folder / "garak"
    folder.mkdir(exist_ok=True)
    program.write_text(GARAK)
    program.chmod(0o755)
    return folder

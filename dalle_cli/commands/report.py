"""`dalle report`: runs as a page in one file."""

from pathlib import Path

from dalle_cli.commands.reports.story.run_page import run_page
from dalle_cli.commands.reports.story.run_story import runs_inside
from dalle_cli.console import Terminal
from dalle_cli.errors import UsageError, printable
from dalle_cli.pages.report import report_page
from dalle_cli.storage.atomic import make_folder, write_file
from dalle_cli.storage.run_dir import RunDir, distinct_names
from dalle_cli.storage.shipped import shipped_name


def run_report(folders: list[Path], out: Path | None, terminal: Terminal) -> None:
    """Write the page of one or several runs, or of all runs inside a folder such as a demo's.

    out  None: `report.html` in the run's folder; for several, and for shipped models, in the
         current one
    """
    runs = [run for folder in folders for run in _runs_of(folder)]
    names = distinct_names([run.resolve() for run in runs])
    page = report_page([run_page(run, name) for run, name in zip(runs, names, strict=True)])

    is_own = len(folders) == 1 and shipped_name(folders[0]) is None
    target = out or (folders[0] if is_own else Path()) / "report.html"
    make_folder(target.absolute().parent)
    write_file(target, page)
    terminal.result(str(target), {"report": str(target), "runs": [str(run) for run in runs]})


def _runs_of(folder: Path) -> list[Path]:
    """Return a run, or the runs inside a folder; whether a run is one shows when it is read."""
    if not folder.is_dir() or RunDir(folder).is_run or RunDir(folder).model.is_dir():
        return [folder]
    if runs := runs_inside(folder):
        return runs
    raise UsageError(f"{printable(str(folder))} holds no run", "name a run, or a folder of runs")

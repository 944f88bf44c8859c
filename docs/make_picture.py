"""Makes docs/demo.svg, the README's picture: the live view of a real demo, as a terminal shows it.

    python docs/make_picture.py [--seconds 300]

It runs ``tidegauge demo`` for so long in a temporary folder, and draws what is in its store then.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI

from tidegauge.commands.demo_view import Dashboard
from tidegauge.sinks.local import LocalStore

WIDTH, HEIGHT = 116, 30
PICTURE = Path(__file__).parent / "demo.svg"


def draw(store: LocalStore) -> str:
    """The dashboard as SVG. Its fonts are the reader's own: a picture should ask no other server for any."""
    console = Console(record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), force_terminal=True)
    console.print(Dashboard(store).render(WIDTH, HEIGHT))
    local = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    local = local.replace("Fira Code", "DejaVu Sans Mono").replace("<svg ", '<svg xml:space="preserve" ', 1)
    return console.export_svg(title="tidegauge demo", theme=MONOKAI, code_format=local, unique_id="demo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", default="300", metavar="N")
    parser.add_argument("--data", metavar="DIR", help="draw the store of an earlier demo instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or folder
        if not args.data:
            command = ["demo", "--plain", "--seconds", args.seconds, "--data", folder]
            subprocess.run([sys.executable, "-m", "tidegauge.cli", *command], check=True)
        store = LocalStore(Path(data) / "tidegauge.db", readonly=True)
        PICTURE.write_text(draw(store), encoding="utf-8")
        store.close()


if __name__ == "__main__":
    main()

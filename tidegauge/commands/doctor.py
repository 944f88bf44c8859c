"""``tidegauge doctor``: look at everything a worker needs, and say what to do about each fault."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from tidegauge.doctor import examine

from .options import add_settings, add_store, settings_from
from .terminal import printable


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_settings(parser)
    add_store(parser)
    parser.add_argument("--output", choices=["table", "json"], default="table")


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 where something must be mended."""
    findings = []
    for finding in examine(settings_from(args)):
        findings.append(finding)
        if args.output == "table":
            mend = f"; {finding.mend}" if finding.mend else ""
            print(printable(f"{finding.state:<4} {finding.check}: {finding.found}{mend}"), flush=True)
    if args.output == "json":
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    return 1 if any(finding.state == "FAIL" for finding in findings) else 0

"""`stav2a tables`: reports of several systems laid out like the paper's Tables I and III."""

from __future__ import annotations

import argparse
import csv
import io
import pathlib


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser("tables", help="lay several evaluations out like the paper's Tables I and III")
    p.add_argument(
        "reports",
        nargs="+",
        metavar="NAME=REPORT",
        help="a system and its report.json (or the folder of it); a name of the paper's table takes that row, and a "
        "name may come several times with reports of 4, 8 and 10 s",
    )
    p.add_argument(
        "--table", nargs="+", choices=["I", "III"], default=[], help="default: those that the names belong to"
    )
    p.add_argument("--out", type=pathlib.Path, metavar="DIR", help="write tables.md and one CSV per table here")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from stav2a_jax.commands.sample import make_folder
    from stav2a_jax.evaluation.report import markdown_table, read_json
    from stav2a_jax.evaluation.tables import System, all_tables
    from stav2a_jax.types import UserError
    from stav2a_jax.video.mux import atomic

    systems = []
    for item in args.reports:
        name, sign, path = item.partition("=")
        if not (sign and name.strip() and path):
            raise UserError(f"each system is given as NAME=REPORT, got {item!r}")
        systems.append(System(name.strip(), read_json(pathlib.Path(path))))
    tables = all_tables(systems, args.table)
    lines = []
    for table in tables:
        lines += [f"## {table.title}", "", *markdown_table(table.header, table.rows), ""]
        lines += [table.note, ""] if table.note else []
    text = "\n".join(lines)
    if args.out is None:
        print(text)
        return 0
    make_folder(args.out)
    for table in tables:
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([table.header, *table.rows])
        with atomic(args.out / f"{table.title.lower().replace(' ', '_')}.csv") as temporary:
            temporary.write_text(file.getvalue(), encoding="utf-8")
    with atomic(args.out / "tables.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(args.out / "tables.md")
    return 0

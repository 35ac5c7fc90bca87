"""``spear inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from spear_gym.cli.common import app, out, print_table
from spear_gym.cli.outputs import check_output, is_inspection

if TYPE_CHECKING:
    from spear_gym.report.network_view import NetworkView


@app.command()
def inspect(
    workload: Annotated[
        str, typer.Argument(help="Catalogue name, or module:function of yours that makes one.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    png: Annotated[Path | None, typer.Option(help="Draw the network into this file.")] = None,
) -> None:
    """Show a traced network: SynOps and MACs, groups of channels, what is fixed and why.

    The names of the groups are those that exclude and the limits of layers take.
    """
    if png is not None:
        check_output(png, is_inspection)
    from spear_gym.report.network_view import network_view
    from spear_gym.workload import resolve_workload

    view = network_view(resolve_workload(workload))
    if as_json:
        out.print_json(json.dumps(view.to_json()))
    else:
        for table in (_operations(view), _groups(view), _fixed(view)):
            print_table(table)
        out.print(
            f"{view.num_steps} time steps, readout {view.readout}; on search, unpruned: accuracy "
            f"{view.accuracy:.4f}, {view.synops:,.0f} SynOps and {view.macs:,.0f} MACs a sample; "
            f"{view.parameters:,} parameters",
            soft_wrap=True,
        )
    if png is not None:
        from spear_gym.boundary.files import write_bytes
        from spear_gym.report.network_picture import network_png

        write_bytes(png, network_png(view))
        if not as_json:
            out.print(f"wrote {png}", soft_wrap=True)


def _operations(view: NetworkView) -> Table:
    table = Table(title=view.workload)
    for header in ("operation", "kind", "reads", "output"):
        table.add_column(header)
    table.add_column("group")
    for header in ("SynOps", "share", "MACs"):
        table.add_column(header, justify="right")
    fixed = {each.name for each in view.fixed}
    for each in view.operations:
        row = ["", "", ""]
        if each.synops is not None and each.macs is not None:
            share = f"{each.synops / view.synops:.1%}" if view.synops else ""
            row = [f"{each.synops:,.0f}", share, f"{each.macs:,.0f}" if each.macs else ""]
        group = each.group or ("fixed" if each.name in fixed else "")
        shape = " x ".join(map(str, each.shape))
        table.add_row(each.name, each.kind, ", ".join(each.reads), shape, group, *row)
    return table


def _groups(view: NetworkView) -> Table:
    table = Table(
        "group", "channels", "made by", "why together", title="groups, as they are decided"
    )
    for group in view.groups:
        why = [*group.ties, *group.why_blocks]
        channels = str(group.channels)
        if group.blocks > 1:
            channels += f", as many of each of {group.blocks} blocks"
        table.add_row(group.name, channels, ", ".join(group.members), "; ".join(why))
    return table


def _fixed(view: NetworkView) -> Table:
    table = Table("first seen at", "channels", "why", title="never pruned")
    for each in view.fixed:
        table.add_row(each.name, str(each.channels), each.reason)
    return table

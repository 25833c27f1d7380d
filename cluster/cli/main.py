"""The `pymirror` command: what an operator does beside running the nodes."""

from __future__ import annotations

import errno
from typing import Any, Final

import click

from cluster.cli.importing import import_
from cluster.cli.index import index
from cluster.cli.local import cluster
from cluster.cli.nearest import nearest
from cluster.cli.node import node
from cluster.cli.promote import demote, promote
from cluster.cli.rebuild import rebuild
from cluster.cli.resubmit import resubmit
from cluster.cli.snapshot import snapshot
from cluster.cli.status import status
from cluster.cli.token import token
from cluster.cli.verify import verify
from cluster.log.driver import STORE_ERRORS, disk_error
from cluster.version import __version__

_OF_THE_DISK: Final = frozenset(
    {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
)


class Commands(click.Group):
    """What a disk refuses ends a command with a line that says so."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run what was asked for; raises ClickException for what is the disk's doing."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno not in _OF_THE_DISK:
                raise
            raise click.ClickException(f"the disk refused: {error}") from None
        except STORE_ERRORS as error:
            said = disk_error(error)
            if said is None:
                raise
            raise click.ClickException(f"the disk refused: {said}") from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Administer pymirror, a replicated mirror cluster for Python packages.

    The nodes themselves are run by twistd: see `twistd pymirror-primary --help` and
    `twistd pymirror-replica --help`.
    """


main.add_command(cluster)
main.add_command(import_)
main.add_command(index)
main.add_command(demote)
main.add_command(promote)
main.add_command(nearest)
main.add_command(node)
main.add_command(rebuild)
main.add_command(resubmit)
main.add_command(snapshot)
main.add_command(status)
main.add_command(token)
main.add_command(verify)

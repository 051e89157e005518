"""The arguments and options of the commands, with their help and environment variables."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption


class _TextOption(TyperOption):
    """Takes text as it is, without the 0.1 s that typer's converter needs to load."""

    def process_value(self, ctx: Any, value: Any) -> Any:
        if self.multiple and not value:
            return []
        if self.multiple or (isinstance(value, str) and not self.is_flag):
            return value
        if value is None and not self.required:
            return None
        return super().process_value(ctx, value)


class _TextArgument(TyperArgument):
    """Takes text as it is, like `_TextOption`."""

    def process_value(self, ctx: Any, value: Any) -> Any:
        if isinstance(value, str) or (value is None and not self.required):
            return value
        return super().process_value(ctx, value)


class Command(TyperCommand):
    """A command all of whose values are text; what the text means is `config`'s to say."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, which take the values as they are."""
        return _taking_text(super().get_params(ctx))


class Group(TyperGroup):
    """A group of such commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, which take the values as they are."""
        return _taking_text(super().get_params(ctx))


def _taking_text(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if isinstance(parameter, TyperOption):
            parameter.__class__ = _TextOption
        elif isinstance(parameter, TyperArgument):
            parameter.__class__ = _TextArgument
    return parameters


Source = Annotated[str, typer.Argument(metavar="SOURCE", help="The folder to synchronise.")]

OneSource = Annotated[
    str | None, typer.Argument(metavar="SOURCE", help="Only the client of this folder.")
]

Destination = Annotated[
    str, typer.Argument(metavar="DEST", help="The folder to keep equal; made if missing.")
]

Version = Annotated[
    bool, typer.Option("--version", is_eager=True, help="Show the version and exit.")
]

Json = Annotated[
    bool, typer.Option("--json", envvar="TWINFOLD_JSON", help="Write one JSON object a line.")
]

Token = Annotated[
    str | None,
    typer.Option("--token", envvar="TWINFOLD_TOKEN", metavar="TEXT", help="The server's secret."),
]

Listen = Annotated[
    str,
    typer.Option(
        "--listen",
        envvar="TWINFOLD_LISTEN",
        metavar="HOST:PORT",
        help="Where to listen; port 0 takes a free one.",
    ),
]

Adopt = Annotated[
    bool,
    typer.Option(
        "--adopt",
        envvar="TWINFOLD_ADOPT",
        help="Take over a DEST that already holds files; what SOURCE lacks goes to the attic.",
    ),
]

Keep = Annotated[
    str,
    typer.Option(
        "--keep",
        envvar="TWINFOLD_KEEP",
        metavar="DURATION",
        help="How long replaced and deleted content is kept; 0 for not at all.",
    ),
]

TlsCert = Annotated[
    str | None,
    typer.Option(
        "--tls-cert", envvar="TWINFOLD_TLS_CERT", metavar="FILE", help="The certificate (PEM)."
    ),
]

TlsKey = Annotated[
    str | None,
    typer.Option(
        "--tls-key", envvar="TWINFOLD_TLS_KEY", metavar="FILE", help="Its private key (PEM)."
    ),
]

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="TWINFOLD_SERVER",
        metavar="INVITE|URL",
        help="Default: the server of this user on this machine.",
    ),
]

Once = Annotated[
    bool,
    typer.Option("--once", envvar="TWINFOLD_ONCE", help="Bring DEST up to date, then exit."),
]

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        envvar="TWINFOLD_DRY_RUN",
        help="Say what --once would do; send and change nothing.",
    ),
]

# Without `envvar`: typer would split the variable at spaces, which patterns may contain.
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="PATTERN",
        help="Leave out what matches (gitignore syntax); repeatable. "
        "[env var: TWINFOLD_IGNORE, one pattern a line]",
    ),
]

MaxDelete = Annotated[
    str | None,
    typer.Option(
        "--max-delete",
        envvar="TWINFOLD_MAX_DELETE",
        metavar="N|P%",
        help="Let one scan delete so many entries, or such a part of all.",
    ),
]

Limit = Annotated[
    str | None,
    typer.Option(
        "--limit", envvar="TWINFOLD_LIMIT", metavar="RATE", help="Send no faster; 10M is 10 MiB/s."
    ),
]

Compress = Annotated[
    str,
    typer.Option(
        "--compress",
        envvar="TWINFOLD_COMPRESS",
        metavar="auto|off|LEVEL",
        help="How to compress what is sent: zstd level 1 to 19.",
    ),
]

TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over",
        envvar="TWINFOLD_TAKE_OVER",
        help="Become the client of a DEST that another client owns.",
    ),
]

Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        envvar="TWINFOLD_TIMEOUT",
        metavar="S",
        help="Give up after S seconds (exit code 3).",
    ),
]

"""The command line: arguments, and one function a command.

What a command works with is imported in the command, so that each one starts fast.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

import typer

from twinfold import options
from twinfold.errors import TwinfoldError, UsageError
from twinfold.output import finish_output, open_missing_streams

if TYPE_CHECKING:
    from twinfold.client.events import Listener, Status
    from twinfold.client.run import KnownSettings
    from twinfold.config import ClientSettings, ServerAddress, ServerSettings
    from twinfold.server.events import Listening

_NO_CLIENT = "no client of {} is running; start one with `twinfold client SOURCE`"
FAILED, WRONG_USAGE, NOT_EQUAL, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="twinfold",
    cls=options.Group,
    help="A live one-way folder synchroniser.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Every option may be set by an environment variable: --token by TWINFOLD_TOKEN, ...",
)


def main() -> NoReturn:
    """Run the command line of this process and exit with its code."""
    open_missing_streams()
    # What a start makes stays: to look for garbage in it takes a fifth of the start's time.
    gc.disable()
    code = run()
    finish_output()
    if code == 0:
        # To take the interpreter apart takes a fifth of a short run. All is closed by now; after
        # a failure there may be something that only its end lets go of.
        os._exit(0)
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; what went wrong is one line on stderr."""
    _never_fail_to_encode()
    try:
        result = app(arguments, prog_name="twinfold", standalone_mode=False)
    except UsageError as error:
        return _complain(str(error), WRONG_USAGE)
    except TwinfoldError as error:
        return _complain(str(error), FAILED)
    except typer.TyperException as error:
        return _complain(f"{error.format_message().rstrip('.')}; see --help", error.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost place; shown to the user
        return _complain_of_unexpected(error)
    return result if isinstance(result, int) else 0


def _never_fail_to_encode() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _complain(text: str, code: int) -> int:
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    with contextlib.suppress(OSError):
        sys.stderr.write(f"twinfold: {line}\n")
    return code


def _complain_of_unexpected(error: Exception) -> int:
    if os.environ.get("TWINFOLD_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        return _complain(f"{error.strerror}: {name}; check that it can be used", FAILED)
    return _complain(
        f"unexpected {type(error).__name__}: {error}; TWINFOLD_DEBUG=1 shows where, "
        "please report it",
        FAILED,
    )


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: options.Version = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"twinfold {version_of('twinfold')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(WRONG_USAGE)


@app.command(cls=options.Command)
def server(
    destination: options.Destination,
    listen: options.Listen = "127.0.0.1:8730",
    adopt: options.Adopt = False,
    keep: options.Keep = "30d",
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    token: options.Token = None,
    json: options.Json = False,
) -> int:
    """Keep the folder DEST equal to what its client sends."""
    from twinfold.checks import check_destination, check_tls_files
    from twinfold.config import (
        ServerSettings,
        check_token,
        default_state_dir,
        parse_duration,
        parse_listen,
    )

    host, port = parse_listen(listen)
    keep_s = parse_duration(keep)
    secret = check_token(token) if token is not None else None
    certificate, key = check_tls_files(tls_cert, tls_key)
    settings = ServerSettings(
        destination=check_destination(destination),
        state_dir=default_state_dir(),
        host=host,
        port=port,
        adopt=adopt,
        keep_s=keep_s,
        token=secret,
        tls_cert=certificate,
        tls_key=key,
    )
    return _serve_with_json(settings) if json else _serve(settings)


def _serve(settings: ServerSettings) -> int:
    from twinfold.registry import announced
    from twinfold.screen.banner import ServerScreen
    from twinfold.wiring import run_server

    with contextlib.ExitStack() as stack:
        screen = stack.enter_context(ServerScreen(_is_terminal()))

        def announce(listening: Listening) -> None:
            stack.enter_context(announced(settings.state_dir, listening))
            screen.announce(listening)

        return run_server(settings, announce, screen)


def _serve_with_json(settings: ServerSettings) -> int:
    from twinfold.json_lines import listening_fields, write_object, write_server_event
    from twinfold.registry import announced
    from twinfold.wiring import run_server

    with contextlib.ExitStack() as stack:

        def announce(listening: Listening) -> None:
            stack.enter_context(announced(settings.state_dir, listening))
            write_object(listening_fields(listening))

        return run_server(settings, announce, write_server_event)


@app.command(cls=options.Command)
def client(
    source: options.Source,
    server: options.Server = None,
    token: options.Token = None,
    once: options.Once = False,
    dry_run: options.DryRun = False,
    ignore: options.Ignore = None,
    limit: options.Limit = None,
    compress: options.Compress = "auto",
    max_delete: options.MaxDelete = None,
    take_over: options.TakeOver = False,
    json: options.Json = False,
) -> int:
    """Watch the folder SOURCE and send every change."""
    from twinfold.checks import check_source
    from twinfold.config import (
        ClientSettings,
        default_state_dir,
        parse_compress,
        parse_max_delete,
        parse_rate,
    )
    from twinfold.core.planning import DeletionLimit

    limit_bytes_per_s = parse_rate(limit) if limit is not None else None
    level = parse_compress(compress)
    deletion_limit = parse_max_delete(max_delete) if max_delete is not None else DeletionLimit()
    path = check_source(source)
    settings = ClientSettings(
        source=path,
        address=_server_address(path, server, token),
        state_dir=default_state_dir(),
        once=once,
        ignore=ignore_patterns(ignore),
        limit_bytes_per_s=limit_bytes_per_s,
        compress=level,
        take_over=take_over,
        max_delete=deletion_limit,
        count_first=_is_terminal() and not json,
    )
    return _dry_run(settings, json) if dry_run else _synchronise(settings, json)


def ignore_patterns(given: list[str] | None) -> tuple[str, ...]:
    """Return the patterns of the options, or else those of the environment, one a line."""
    lines = given or os.environ.get("TWINFOLD_IGNORE", "").splitlines()
    return tuple(line for line in lines if line)


def _server_address(source: bytes, given: str | None, token: str | None) -> ServerAddress:
    """Return where to connect to, once its DEST, if it is on this machine, lies apart."""
    from twinfold.checks import check_apart
    from twinfold.config import check_token, default_state_dir, parse_server
    from twinfold.registry import destination_of, find_server

    if given is not None:
        address = parse_server(given, token)
        destination = destination_of(default_state_dir(), address)
    else:
        found = find_server(default_state_dir())
        address, destination = found.address, found.destination
        if token is not None:
            address = address.with_token(check_token(token))
    if destination is not None:
        check_apart(source, destination)
    return address


def _synchronise(settings: ClientSettings, json: bool) -> int:
    from twinfold.wiring import run_client

    with _client_listener(settings, json) as listener:
        return run_client(settings, listener)


def _dry_run(settings: ClientSettings, json: bool) -> int:
    from twinfold.wiring import dry_run

    if json:
        from twinfold.json_lines import write_dry_run_event

        return dry_run(settings, write_dry_run_event)
    from twinfold.screen.plain import DryRunScreen

    screen = DryRunScreen()
    code = dry_run(settings, screen)
    screen.finish()
    return code


@contextlib.contextmanager
def _client_listener(settings: ClientSettings, json: bool) -> Iterator[Listener]:
    if json:
        from twinfold.json_lines import ClientLines

        yield ClientLines()
    elif _is_terminal():
        from twinfold.screen.live import LiveScreen, terminal_console, title

        with LiveScreen(terminal_console(), title(settings)) as screen:
            yield screen
    else:
        from twinfold.screen.plain import PlainScreen

        yield PlainScreen()


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


@app.command(cls=options.Command)
def status(source: options.OneSource = None, json: options.Json = False) -> int:
    """Show what each client of this user is doing now."""
    from twinfold.config import default_state_dir
    from twinfold.wiring import status as ask_status

    path = os.path.realpath(os.fsencode(source)) if source is not None else None
    found = ask_status(default_state_dir(), path)
    if source is not None and not found:
        raise TwinfoldError(_NO_CLIENT.format(source))
    if json:
        from twinfold.json_lines import status_fields, statuses_fields, write_object

        one = source is not None
        write_object(status_fields(found[0]) if one else statuses_fields(found))
    else:
        _show_status(found)
    return 0


def _show_status(found: Sequence[Status]) -> None:
    from twinfold.output import write_line
    from twinfold.screen.table import status_text

    if found:
        write_line(status_text(found, time.time(), _terminal_cells()))
    else:
        write_line("no client of this user is running; start one with: twinfold client SOURCE")


def _terminal_cells() -> int | None:
    if not sys.stdout.isatty():
        return None
    return os.get_terminal_size(sys.stdout.fileno()).columns


@app.command(cls=options.Command)
def wait(
    source: options.Source, timeout: options.Timeout = None, json: options.Json = False
) -> int:
    """Return once every earlier change is durable at the server."""
    from twinfold.config import default_state_dir, parse_timeout
    from twinfold.wiring import wait as ask_wait

    timeout_s = parse_timeout(timeout) if timeout is not None else None
    path = os.path.realpath(os.fsencode(source))
    found = ask_wait(default_state_dir(), path, timeout_s)
    if json:
        from twinfold.json_lines import status_fields, write_object

        write_object(status_fields(found))
    else:
        from twinfold.output import write_line
        from twinfold.screen.table import wait_text

        write_line(wait_text(found))
    return 0 if found.in_sync and not found.problems else NOT_EQUAL


@app.command(cls=options.Command)
def release(source: options.Source, json: options.Json = False) -> int:
    """Let what the client of SOURCE holds back pass, once: deletions, a replaced folder."""
    from twinfold.config import default_state_dir
    from twinfold.output import write_line
    from twinfold.screen.table import released_text
    from twinfold.wiring import release as ask_release
    from twinfold.wiring import status as ask_status

    path = os.path.realpath(os.fsencode(source))
    before = ask_status(default_state_dir(), path)
    if not before:
        raise TwinfoldError(_NO_CLIENT.format(source))
    if not before[0].held:
        raise TwinfoldError(f"nothing is held back for {source}: there is nothing to release")
    if not json:
        write_line(released_text(before[0]))
    found = ask_release(default_state_dir(), path, before[0].held_deletions)
    if json:
        from twinfold.json_lines import status_fields, write_object

        write_object({**status_fields(found), "released": before[0].held_deletions})
    else:
        _show_wait(found)
    return 0 if found.in_sync and not found.problems else NOT_EQUAL


def _show_wait(found: Status) -> None:
    from twinfold.output import write_line
    from twinfold.screen.story import one_line
    from twinfold.screen.table import problem_text
    from twinfold.screen.text import count, size

    state = (
        "in sync"
        if found.in_sync
        else f"not in sync yet: {found.activity} {one_line(found.detail)}"
    )
    write_line(f"{state.strip()}, {count(found.files, 'file')}, {size(found.size_bytes)}")
    for problem in found.problems:
        write_line(problem_text(problem))


@app.command(cls=options.Command)
def verify(
    source: options.Source,
    server: options.Server = None,
    token: options.Token = None,
    json: options.Json = False,
) -> int:
    """Read all content again at both ends; list every difference.

    What differs at DEST is healed, and exit code 3 says that something did. A running client
    does it beside its work. Where none is running this command is one for as long as it takes:
    it first brings DEST up to date, at the server that SOURCE was last synchronised with or
    that --server names.
    """
    from twinfold.checks import check_source
    from twinfold.config import ClientSettings, default_state_dir
    from twinfold.screen.verifying import VerifyScreen
    from twinfold.wiring import verify as run_verify

    path = check_source(source)

    def settings(known: KnownSettings) -> ClientSettings:
        return ClientSettings(
            source=path,
            address=_server_address(path, server or known.invite, token),
            state_dir=default_state_dir(),
            ignore=known.ignore or ignore_patterns(None),
        )

    with VerifyScreen(_is_terminal(), quiet=json) as screen:
        found = run_verify(default_state_dir(), path, settings, screen)
    if found is None:
        return INTERRUPTED
    if json:
        from twinfold.json_lines import verified_fields, write_object

        write_object(verified_fields(found))
    else:
        screen.show(found)
    equal = found.status.in_sync and not found.differences and not found.status.problems
    return 0 if equal else NOT_EQUAL


@app.command(cls=options.Command)
def demo() -> int:
    """Show a server and a client at work in a temporary place."""
    import signal

    from twinfold.demo import run_demo

    # So that the demo also cleans up when it is ended from outside.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run_demo()

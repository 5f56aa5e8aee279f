"""{{name}}: pull what a peer has and this node lacks, a few segments at a time.

The contract is wit/sync.wit; `build.sh` writes what it looks like in Python to bindings/, for
editors and type checkers. Each tick runs in a fresh instance: what one tick leaves for the next is
in the cursor.
"""

from dataclasses import dataclass, field
from typing import Optional

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.policy import (
    Context,
    Description,
    PolicyError_Other,
    PolicyError_Peer,
    PolicyError_Setting,
    PolicyError_Storage,
    TickFailure,
    TickReport,
)
from wit_world.imports import clock, cursor, local, transfers
from wit_world.imports.log import Level, write
from wit_world.imports.peers import Peer
from wit_world.imports.transfers import Transfer
from wit_world.imports.types import (
    ApplyError_Storage,
    FetchError_Peer,
    FetchError_Storage,
    FetchError_TooManyBytes,
    FetchError_TooManyTransfers,
    Hash,
)

MAX_WINDOW = 16


class Policy(exports.Policy):
    """What the host calls."""

    def describe(self) -> Description:
        # Another cursor_schema for a cursor that means something else.
        return Description(name="{{name}}", version="0.1.0", cursor_schema=1)

    def tick(self, context: Context, peer: Peer) -> TickReport:
        # The last tenth is kept to apply what is in flight and to store the cursor.
        end_ms = clock.monotonic_ms() + context.budget_ms - context.budget_ms // 10
        try:
            return sync(peer, read_settings(context.settings), end_ms)
        except Err:
            raise
        except PeerTrouble as trouble:
            raise failure(PolicyError_Peer(trouble.error)) from trouble
        except StorageTrouble as trouble:
            raise failure(PolicyError_Storage()) from trouble
        except Exception as mistake:
            # In this file. Raised on, it would end the tick without a word.
            raise failure(PolicyError_Other(where(mistake))) from mistake


class PeerTrouble(Exception):
    """The peer gave no usable answer."""

    def __init__(self, error):
        self.error = error


class StorageTrouble(Exception):
    """The host can't write."""


def sync(peer: Peer, window: int, end_ms: int) -> TickReport:
    """One round: probe, compare roots, take the manifest, pull what is missing."""
    try:
        peer_root = peer.probe().root
        local_root = local.root()
        if peer_root == local_root:
            return report(Pull())
        # The roots differ for good where this node has segments of its own. An empty node proves
        # that the cursor is of another database.
        if peer_root == load_cursor() and local_root != Hash(0, 0, 0, 0):
            return report(Pull())
        manifest = peer.manifest()
    except Err as error:
        raise PeerTrouble(error.value) from error

    # Leaving `with` gives a handle back to the host.
    with manifest:
        offered = manifest.root()
        hashes = [segment.hash for segment in manifest.missing()]
        pull = Pull(missing=len(hashes), queue=hashes[::-1])
        pull.run(peer, window, end_ms)
        # What is still missing, whoever brought the rest.
        pull.pending = len(manifest.missing())
    if pull.pending == 0:
        store_cursor(offered)
    if pull.applied > 0:
        write(Level.INFO, f"applied {pull.applied} of {pull.missing} missing segments")
    return report(pull)


@dataclass
class Pull:
    """Tries each segment of the queue once, last one first."""

    missing: int = 0
    pending: int = 0
    applied: int = 0
    failed: int = 0
    written: int = 0
    skipped: int = 0
    # Set when no further transfer is to start in this tick.
    closed: bool = False
    queue: list[Hash] = field(default_factory=list)
    flights: list[tuple[Hash, Transfer]] = field(default_factory=list)

    def run(self, peer: Peer, window: int, end_ms: int) -> None:
        while True:
            self.start(peer, window, end_ms)
            if not self.flights:
                return
            at = None
            if (wait_ms := end_ms - clock.monotonic_ms()) > 0:
                at = transfers.wait_any([flight for _, flight in self.flights], wait_ms)
            if at is None:
                # The time is up. Giving a transfer back cancels it.
                self.closed = True
                for _, flight in self.flights:
                    flight.__exit__(None, None, None)
                return
            self.land(*self.flights.pop(at))

    def start(self, peer: Peer, window: int, end_ms: int) -> None:
        """Starts transfers until the window is full."""
        while not self.closed and self.queue and len(self.flights) < window:
            if clock.monotonic_ms() >= end_ms:
                self.closed = True
                return
            segment = self.queue.pop()
            # Another peer's tick may have brought the segment, or be about to.
            if local.has(segment) or local.fetching(segment):
                continue
            try:
                self.flights.append((segment, peer.start_fetch(segment)))
            except Err as error:
                self.not_pulled(segment, error.value)

    def land(self, segment: Hash, flight: Transfer) -> None:
        """Takes what a finished transfer brought, and applies it."""
        try:
            with flight, flight.take() as taken:
                applied = local.apply(taken)
        except Err as error:
            return self.not_pulled(segment, error.value)
        self.applied += 1
        self.written += applied.written
        self.skipped += applied.skipped

    def not_pulled(self, segment: Hash, why) -> None:
        if isinstance(why, FetchError_Storage | ApplyError_Storage):
            raise StorageTrouble
        # All that this tick may pull, or a peer in trouble: the next tick goes on.
        full = isinstance(why, FetchError_TooManyTransfers | FetchError_TooManyBytes)
        self.closed |= full or isinstance(why, FetchError_Peer)
        if full:
            return
        self.failed += 1
        write(Level.WARN, f"segment {segment.a:016x}: {why}")


def read_settings(settings: list[tuple[str, str]]) -> int:
    """`window`, the transfers in flight. Unknown settings are refused, so that a typing error does
    not pass for one."""
    window = 4
    for key, value in settings:
        if key != "window":
            raise bad_setting(f"unknown setting {key}: this policy has window alone")
        window = int(value) if value.isascii() and value.isdigit() and len(value) < 3 else 0
        if not 1 <= window <= MAX_WINDOW:
            raise bad_setting(f"window must be a whole number from 1 to {MAX_WINDOW}")
    return window


def load_cursor() -> Optional[Hash]:
    """The root of the last manifest that was pulled whole."""
    value = cursor.load()
    if value is None or len(value) != 32:
        return None
    return Hash(*(int.from_bytes(value[at : at + 8], "big") for at in (0, 8, 16, 24)))


def store_cursor(root: Hash) -> None:
    words = (root.a, root.b, root.c, root.d)
    try:
        cursor.store(b"".join(word.to_bytes(8, "big") for word in words))
    except Err as error:
        raise StorageTrouble from error


def report(pull: Pull) -> TickReport:
    # Where only the tick's own limits ended it, go on at once; else at the interval.
    again = pull.closed and pull.applied > 0 and pull.failed == 0
    return TickReport(
        in_sync=pull.pending == 0,
        missing=pull.missing,
        applied=pull.applied,
        records_written=pull.written,
        records_skipped=pull.skipped,
        failed=pull.failed,
        pending=pull.pending,
        quarantined=0,
        next_tick_ms=0 if again else None,
    )


def failure(error) -> Err:
    """What a tick raises to fail."""
    return Err(TickFailure(error=error, next_tick_ms=None))


def where(mistake: Exception) -> str:
    """What it is, and the line. There are no files here to quote that from, so `traceback` traps."""
    trace = mistake.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return f"{type(mistake).__name__}: {mistake}, in line {trace.tb_lineno}"


def bad_setting(why: str) -> Err:
    return failure(PolicyError_Setting(why))

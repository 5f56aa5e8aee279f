// {{name}}: pull what a peer has and this node lacks, a few segments at a time.
//
// The contract is ../wit/sync.wit: a list of tuples is an array of arrays, u64 a BigInt, a variant
// `{ tag, val }`, and an error is thrown as `{ payload }`. Each tick runs in a fresh instance: what
// one tick leaves for the next is in the cursor.

import { write } from '{{contract}}/log@{{version}}';
import { monotonicMs } from '{{contract}}/clock@{{version}}';
import { load, store } from '{{contract}}/cursor@{{version}}';
import { apply, fetching, has, root as localRoot } from '{{contract}}/local@{{version}}';
import { waitAny } from '{{contract}}/transfers@{{version}}';

const MAX_WINDOW = 16;

export const policy = {
  describe() {
    // Another cursorSchema for a cursor that means something else.
    return { name: '{{name}}', version: '0.1.0', cursorSchema: 1 };
  },

  tick(context, peer) {
    try {
      return sync(context, peer);
    } catch (thrown) {
      // A mistake in this file. Thrown on, it would end the tick without a word.
      if (thrown?.error?.tag === undefined) {
        const where = String(thrown?.stack).split('\n')[0];
        throw failure({ tag: 'other', val: `${thrown}, in ${where}` });
      }
      throw thrown;
    }
  },
};

/** One round: probe, compare roots, take the manifest, pull what is missing. */
function sync(context, peer) {
  // The last tenth is kept to apply what is in flight and to store the cursor.
  const end = monotonicMs() + context.budgetMs - context.budgetMs / 10n;
  const { window } = readSettings(context.settings);

  const peerRoot = ask(() => peer.probe()).root;
  const local = localRoot();
  if (equal(peerRoot, local)) return report({});
  // The roots differ for good where this node has segments of its own. An empty node proves that
  // the cursor is of another database.
  const last = loadCursor();
  if (last !== undefined && equal(peerRoot, last) && !isZero(local)) return report({});

  const manifest = ask(() => peer.manifest());
  const offered = manifest.root();
  const counts = pull(peer, manifest.missing(), window, end);
  // What is still missing, whoever brought the rest.
  counts.pending = manifest.missing().length;
  release(manifest);

  if (counts.pending === 0) storeCursor(offered);
  if (counts.applied > 0) {
    write('info', `applied ${counts.applied} of ${counts.missing} missing segments`);
  }
  // Where only the tick's own limits ended it, go on at once; else at the interval.
  const again = counts.closed && counts.applied > 0 && counts.failed === 0;
  return report({ ...counts, nextTickMs: again ? 0n : undefined });
}

/** Tries each missing segment once, `window` of them at a time. */
function pull(peer, missing, window, end) {
  const counts = {
    missing: missing.length,
    applied: 0,
    failed: 0,
    recordsWritten: 0n,
    recordsSkipped: 0n,
    // Set when no further transfer is to start in this tick.
    closed: false,
  };
  const queue = missing.map((segment) => segment.hash).reverse();
  const flights = [];

  const failed = (hash, why) => {
    if (why.tag === 'storage') throw failure({ tag: 'storage' });
    // All that this tick may pull, or a peer in trouble: the next tick goes on.
    const full = ['too-many-transfers', 'too-many-bytes'].includes(why.tag);
    if (full || why.tag === 'peer') counts.closed = true;
    if (full) return;
    counts.failed += 1;
    write('warn', `segment ${short(hash)}: ${why.val?.tag ?? why.tag}`);
  };

  const start = () => {
    while (!counts.closed && flights.length < window && queue.length > 0) {
      if (monotonicMs() >= end) {
        counts.closed = true;
        return;
      }
      const hash = queue.pop();
      // Another peer's tick may have brought the segment, or be about to.
      if (has(hash) || fetching(hash)) continue;
      const started = attempt(() => peer.startFetch(hash));
      if (started.ok) flights.push({ hash, transfer: started.value });
      else failed(hash, started.error);
    }
  };

  const land = ({ hash, transfer }) => {
    const taken = attempt(() => transfer.take());
    release(transfer);
    if (!taken.ok) return failed(hash, taken.error);
    const applied = attempt(() => apply(taken.value));
    release(taken.value);
    if (!applied.ok) return failed(hash, applied.error);
    counts.applied += 1;
    counts.recordsWritten += applied.value.written;
    counts.recordsSkipped += applied.value.skipped;
  };

  for (;;) {
    start();
    if (flights.length === 0) return counts;
    const now = monotonicMs();
    const transfers = flights.map((flight) => flight.transfer);
    const at = now < end ? waitAny(transfers, end - now) : undefined;
    if (at === undefined) {
      // The time is up. Releasing a transfer cancels it.
      flights.forEach((flight) => release(flight.transfer));
      counts.closed = true;
      return counts;
    }
    land(...flights.splice(at, 1));
  }
}

/** Settings: `window`, the transfers in flight. Unknown ones are refused, so that a typing error
 * does not pass for a setting. */
function readSettings(settings) {
  let window = 4;
  for (const [key, value] of settings) {
    if (key !== 'window') {
      throw badSetting(`unknown setting ${key}: this policy has window alone`);
    }
    window = /^[0-9]{1,2}$/.test(value) ? Number(value) : 0;
    if (window < 1 || window > MAX_WINDOW) {
      throw badSetting(`window must be a whole number from 1 to ${MAX_WINDOW}`);
    }
  }
  return { window };
}

/** The cursor is the root of the last manifest that was pulled whole. */
function loadCursor() {
  const bytes = load();
  if (bytes === undefined || bytes.length !== 32) return undefined;
  const words = new DataView(bytes.buffer, bytes.byteOffset, 32);
  const [a, b, c, d] = [0, 8, 16, 24].map((at) => words.getBigUint64(at));
  return { a, b, c, d };
}

function storeCursor({ a, b, c, d }) {
  const words = new DataView(new ArrayBuffer(32));
  [a, b, c, d].forEach((word, i) => words.setBigUint64(8 * i, word));
  if (!attempt(() => store(new Uint8Array(words.buffer))).ok) throw failure({ tag: 'storage' });
}

/** A report of a tick with nothing to do, but for what is given. */
function report(counts) {
  const nothing = {
    missing: 0,
    applied: 0,
    recordsWritten: 0n,
    recordsSkipped: 0n,
    failed: 0,
    pending: 0,
    quarantined: 0,
    nextTickMs: undefined,
  };
  return { ...nothing, ...counts, inSync: (counts.pending ?? 0) === 0 };
}

/** What a tick throws to fail. */
function failure(error) {
  return { error, nextTickMs: undefined };
}

function badSetting(why) {
  return failure({ tag: 'setting', val: why });
}

/** The answer of the peer; without one the tick fails. */
function ask(call) {
  const answer = attempt(call);
  if (answer.ok) return answer.value;
  throw failure({ tag: 'peer', val: answer.error });
}

/** A host call that may fail. What is no error of the contract is thrown on. */
function attempt(call) {
  try {
    return { ok: true, value: call() };
  } catch (thrown) {
    if (thrown?.payload === undefined) throw thrown;
    const { payload } = thrown;
    return { ok: false, error: typeof payload === 'string' ? { tag: payload } : payload };
  }
}

/** Gives a handle back to the host. Waiting for the garbage collector would hold transfers and
 * segments, of which a tick may have few, until its end. */
function release(handle) {
  handle[Symbol.dispose]();
}

function equal(x, y) {
  return x.a === y.a && x.b === y.b && x.c === y.c && x.d === y.d;
}

function isZero({ a, b, c, d }) {
  return (a | b | c | d) === 0n;
}

function short({ a }) {
  return a.toString(16).padStart(16, '0').slice(0, 8);
}

// {{name}}: pull what a peer has and this node lacks, a few segments at a time.
//
// The contract is wit/sync.wit; bindings/sync_policy.h is what it looks like in C, comments and
// all. Each tick runs in a fresh instance: what one tick leaves for the next is in the cursor.

#include "sync_policy.h"

#include <stdlib.h>
#include <string.h>

#define NAME "{{name}}"
#define VERSION "0.1.0"
// Change it when the bytes of the cursor mean something else.
#define CURSOR_SCHEMA 1

#define MAX_WINDOW 16
#define DEFAULT_WINDOW 4

typedef edgestore_sync_types_hash_t hash_t;
typedef edgestore_sync_transfers_own_transfer_t transfer_t;
typedef edgestore_sync_transfers_own_segment_t segment_t;
typedef edgestore_sync_peers_borrow_peer_t peer_t;
typedef exports_edgestore_sync_policy_context_t context_t;
typedef exports_edgestore_sync_policy_tick_report_t report_t;
typedef exports_edgestore_sync_policy_tick_failure_t failure_t;

static bool equal(const hash_t *x, const hash_t *y) {
    return x->a == y->a && x->b == y->b && x->c == y->c && x->d == y->d;
}

static bool is_zero(const hash_t *hash) { return !(hash->a | hash->b | hash->c | hash->d); }

static void say(edgestore_sync_log_level_t level, const char *text) {
    sync_policy_string_t line;
    sync_policy_string_set(&line, text);
    edgestore_sync_log_write(level, &line);
}

// How a tick fails. Each returns false, as a failed tick does.

static bool fail(failure_t *failure, uint8_t tag) {
    memset(failure, 0, sizeof *failure);
    failure->error.tag = tag;
    return false;
}

static bool fail_storage(failure_t *failure) {
    return fail(failure, EXPORTS_EDGESTORE_SYNC_POLICY_POLICY_ERROR_STORAGE);
}

static bool fail_peer(failure_t *failure, edgestore_sync_types_peer_error_t why) {
    fail(failure, EXPORTS_EDGESTORE_SYNC_POLICY_POLICY_ERROR_PEER);
    failure->error.val.peer = why;
    return false;
}

static bool fail_setting(failure_t *failure, const char *why) {
    fail(failure, EXPORTS_EDGESTORE_SYNC_POLICY_POLICY_ERROR_SETTING);
    sync_policy_string_dup(&failure->error.val.setting, why);
    return false;
}

// Settings: `window`, the transfers in flight. Unknown ones are refused, so that a typing error
// does not pass for a setting.
static bool read_settings(const context_t *context, uint32_t *window, failure_t *failure) {
    *window = DEFAULT_WINDOW;
    for (size_t i = 0; i < context->settings.len; i++) {
        const sync_policy_string_t key = context->settings.ptr[i].f0;
        const sync_policy_string_t value = context->settings.ptr[i].f1;
        if (key.len != 6 || memcmp(key.ptr, "window", 6) != 0) {
            return fail_setting(failure, "unknown setting: this policy has `window` alone");
        }
        uint32_t number = 0;
        for (size_t at = 0; at < value.len && number <= MAX_WINDOW; at++) {
            const uint8_t digit = value.ptr[at] - '0';
            number = digit <= 9 ? number * 10 + digit : MAX_WINDOW + 1;
        }
        if (number < 1 || number > MAX_WINDOW) {
            return fail_setting(failure, "`window` must be a whole number from 1 to 16");
        }
        *window = number;
    }
    return true;
}

// The cursor holds the root of the last manifest that was pulled whole.
static bool load_cursor(hash_t *root) {
    sync_policy_list_u8_t bytes;
    const bool there = edgestore_sync_cursor_load(&bytes) && bytes.len == sizeof *root;
    if (there) {
        memcpy(root, bytes.ptr, sizeof *root);
    }
    return there;
}

static bool store_cursor(hash_t *root) {
    sync_policy_list_u8_t bytes = {(uint8_t *)root, sizeof *root};
    edgestore_sync_cursor_store_error_t error;
    return edgestore_sync_cursor_store(&bytes, &error);
}

// What one pull has at hand. flights[..flying] are the transfers that run.
typedef struct {
    peer_t peer;
    uint64_t end_ms;
    uint32_t window;
    edgestore_sync_peers_list_segment_ref_t missing;
    size_t next;
    transfer_t flights[MAX_WINDOW];
    uint32_t flying;
    // Set when no further transfer is to start in this tick.
    bool closed;
    report_t *report;
} pull_t;

// What to do about a segment that was not fetched. False when the tick can't go on: the disk is
// full or failing.
static bool not_fetched(pull_t *pull, const edgestore_sync_types_fetch_error_t *why) {
    switch (why->tag) {
    case EDGESTORE_SYNC_TYPES_FETCH_ERROR_STORAGE:
        return false;
    case EDGESTORE_SYNC_TYPES_FETCH_ERROR_TOO_MANY_TRANSFERS:
    case EDGESTORE_SYNC_TYPES_FETCH_ERROR_TOO_MANY_BYTES:
        // All that this tick may pull: the next one goes on.
        pull->closed = true;
        return true;
    case EDGESTORE_SYNC_TYPES_FETCH_ERROR_PEER:
        // The peer is in trouble: leave the rest to a later tick.
        pull->closed = true;
        break;
    default:
        break;
    }
    say(EDGESTORE_SYNC_LOG_LEVEL_WARN, "a segment was not fetched; a later tick tries again");
    pull->report->failed++;
    return true;
}

// Starts transfers until the window is full.
static bool start(pull_t *pull) {
    while (!pull->closed && pull->flying < pull->window && pull->next < pull->missing.len) {
        if (edgestore_sync_clock_monotonic_ms() >= pull->end_ms) {
            pull->closed = true;
            return true;
        }
        hash_t *hash = &pull->missing.ptr[pull->next++].hash;
        // Another peer's tick may have brought the segment, or be about to.
        if (edgestore_sync_local_has(hash) || edgestore_sync_local_fetching(hash)) {
            continue;
        }
        edgestore_sync_types_fetch_error_t error;
        transfer_t *flight = &pull->flights[pull->flying];
        if (edgestore_sync_peers_method_peer_start_fetch(pull->peer, hash, flight, &error)) {
            pull->flying++;
        } else if (!not_fetched(pull, &error)) {
            return false;
        }
    }
    return true;
}

// Takes what a finished transfer brought, and applies it.
static bool land(pull_t *pull, uint32_t at) {
    const transfer_t flight = pull->flights[at];
    pull->flights[at] = pull->flights[--pull->flying];
    segment_t segment;
    edgestore_sync_types_fetch_error_t why;
    const bool taken = edgestore_sync_transfers_method_transfer_take(
        edgestore_sync_transfers_borrow_transfer(flight), &segment, &why);
    edgestore_sync_transfers_transfer_drop_own(flight);
    if (!taken) {
        return not_fetched(pull, &why);
    }
    edgestore_sync_local_applied_t applied;
    edgestore_sync_types_apply_error_t error;
    const bool ok = edgestore_sync_local_apply(edgestore_sync_transfers_borrow_segment(segment),
                                               &applied, &error);
    edgestore_sync_transfers_segment_drop_own(segment);
    report_t *report = pull->report;
    if (ok) {
        report->applied++;
        report->records_written += applied.written;
        report->records_skipped += applied.skipped;
        return true;
    }
    if (error.tag == EDGESTORE_SYNC_TYPES_APPLY_ERROR_STORAGE) {
        return false;
    }
    say(EDGESTORE_SYNC_LOG_LEVEL_WARN, "a segment was not applied");
    report->failed++;
    return true;
}

static bool pull_missing(pull_t *pull) {
    for (;;) {
        if (!start(pull)) {
            return false;
        }
        if (pull->flying == 0) {
            return true;
        }
        edgestore_sync_transfers_borrow_transfer_t borrowed[MAX_WINDOW];
        for (uint32_t i = 0; i < pull->flying; i++) {
            borrowed[i] = edgestore_sync_transfers_borrow_transfer(pull->flights[i]);
        }
        edgestore_sync_transfers_list_borrow_transfer_t list = {borrowed, pull->flying};
        const uint64_t now_ms = edgestore_sync_clock_monotonic_ms();
        uint32_t at;
        if (now_ms >= pull->end_ms ||
            !edgestore_sync_transfers_wait_any(&list, pull->end_ms - now_ms, &at)) {
            // The time is up. Dropping a transfer cancels it.
            while (pull->flying > 0) {
                edgestore_sync_transfers_transfer_drop_own(pull->flights[--pull->flying]);
            }
            pull->closed = true;
            return true;
        }
        if (!land(pull, at)) {
            return false;
        }
    }
}

void exports_edgestore_sync_policy_describe(exports_edgestore_sync_policy_description_t *ret) {
    sync_policy_string_dup(&ret->name, NAME);
    sync_policy_string_dup(&ret->version, VERSION);
    ret->cursor_schema = CURSOR_SCHEMA;
}

bool exports_edgestore_sync_policy_tick(context_t *context, peer_t peer, report_t *report,
                                        failure_t *failure) {
    // The last tenth is kept to apply what is in flight and to store the cursor.
    const uint64_t start_ms = edgestore_sync_clock_monotonic_ms();
    pull_t pull = {.peer = peer, .report = report};
    pull.end_ms = start_ms + context->budget_ms - context->budget_ms / 10;
    memset(report, 0, sizeof *report);
    report->in_sync = true;
    if (!read_settings(context, &pull.window, failure)) {
        return false;
    }

    edgestore_sync_peers_root_info_t info;
    edgestore_sync_types_peer_error_t error;
    if (!edgestore_sync_peers_method_peer_probe(peer, &info, &error)) {
        return fail_peer(failure, error);
    }
    hash_t local, last;
    edgestore_sync_local_root(&local);
    if (equal(&info.root, &local)) {
        return true;
    }
    // The roots differ for good where this node has segments of its own. An empty node proves that
    // the cursor is of another database.
    if (load_cursor(&last) && equal(&info.root, &last) && !is_zero(&local)) {
        return true;
    }

    edgestore_sync_peers_own_manifest_t manifest;
    if (!edgestore_sync_peers_method_peer_manifest(peer, &manifest, &error)) {
        return fail_peer(failure, error);
    }
    hash_t offered;
    const edgestore_sync_peers_borrow_manifest_t borrowed =
        edgestore_sync_peers_borrow_manifest(manifest);
    edgestore_sync_peers_method_manifest_root(borrowed, &offered);
    edgestore_sync_peers_method_manifest_missing(borrowed, &pull.missing);
    report->missing = (uint32_t)pull.missing.len;
    if (!pull_missing(&pull)) {
        return fail_storage(failure);
    }
    // What is still missing, whoever brought the rest.
    edgestore_sync_peers_method_manifest_missing(borrowed, &pull.missing);
    edgestore_sync_peers_manifest_drop_own(manifest);

    report->pending = (uint32_t)pull.missing.len;
    report->in_sync = report->pending == 0;
    if (report->in_sync && !store_cursor(&offered)) {
        return fail_storage(failure);
    }
    if (report->applied > 0) {
        say(EDGESTORE_SYNC_LOG_LEVEL_INFO, "applied what the peer has and this node lacked");
    }
    // Where only the tick's own limits ended it, go on at once; else at the interval.
    report->next_tick_ms.is_some = pull.closed && report->applied > 0 && report->failed == 0;
    report->next_tick_ms.val = 0;
    return true;
}

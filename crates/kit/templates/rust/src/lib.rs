//! {{name}}: pull what a peer has and this node lacks, a few segments at a time.
//!
//! The contract is wit/sync.wit, and the crate edgestore-policy is what it looks like in Rust. Each
//! tick runs in a fresh instance: what one tick leaves for the next is in the cursor.

use edgestore_policy::prelude::*;
use serde::{Deserialize, Serialize};

/// The policy.
pub struct Strategy;

edgestore_policy::export!(Strategy);

/// The cursor.
#[derive(Default, Serialize, Deserialize)]
struct Memory {
    /// The root of the last manifest that was pulled whole.
    pulled: Option<Hash>,
}

impl Policy for Strategy {
    const NAME: &str = "{{name}}";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    // Another one for a cursor that means something else.
    const CURSOR_SCHEMA: u32 = 1;

    fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure> {
        let budget = Budget::new(host, context);
        let mut settings = Settings::new(&context.settings);
        let window = settings.number("window", 4, 1..=16)?;
        settings.finish()?;
        let mut memory = Cursor::<Memory>::load(host);

        let peer = host.peer();
        let (peer_root, local_root) = (peer.probe()?.root, host.local_root());
        if peer_root == local_root {
            return Ok(TickReport::default());
        }
        // The roots differ for good where this node has segments of its own. An empty node proves
        // that the cursor is of another database.
        if memory.pulled == Some(peer_root) && local_root != Hash::ZERO {
            return Ok(TickReport::default());
        }

        let manifest = peer.manifest()?;
        let mut missing = manifest.missing();
        let mut report = TickReport { missing: missing.len() as u32, ..TickReport::default() };
        let mut pull = Pull::new(host, budget, window);
        loop {
            // Another peer's tick may have brought a segment, or be about to.
            let wanted = |next: &SegmentRef| !host.has(next.hash) && !host.fetching(next.hash);
            let next = |_: &[_]| missing.find(wanted).map(|next| (peer, next.hash));
            let Some(Landing { hash, outcome, .. }) = pull.next(next) else { break };
            let why = match outcome.map(|segment| host.apply(&segment)) {
                Ok(Ok(applied)) => {
                    report.applied += 1;
                    report.records_written += applied.written;
                    report.records_skipped += applied.skipped;
                    continue;
                }
                Err(FetchError::Storage) | Ok(Err(ApplyError::Storage)) => {
                    return Err(Storage.into());
                }
                Err(error) => error.why(),
                Ok(Err(error)) => error.why(),
            };
            report.failed += 1;
            host.warn(format_args!("segment {}: {why}", hash.short()));
        }

        // What is still missing, whoever brought the rest.
        report.pending = manifest.missing().len() as u32;
        report.in_sync = report.pending == 0;
        if report.in_sync {
            memory.pulled = Some(manifest.root());
            memory.store(host)?;
        }
        if report.applied > 0 {
            host.info(format_args!("applied {} of {}", report.applied, report.missing));
        }
        // Where only the tick's own limits ended it, go on at once; else at the interval.
        let cut_short = matches!(pull.end(), End::OutOfTime | End::OutOfBytes);
        if cut_short && report.applied > 0 && report.failed == 0 {
            report.next_tick_ms = Some(0);
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use edgestore_policy::mock::{Fate, MockHost};

    use super::*;

    #[test]
    fn all_that_is_missing_is_pulled_and_then_there_is_nothing_to_do() {
        let host = MockHost::with([1, 2, 3]);
        let report = host.tick::<Strategy>();
        assert_eq!((report.missing, report.applied, report.in_sync), (3, 3, true));
        assert_eq!(host.tick::<Strategy>(), TickReport::default());
    }

    #[test]
    fn a_segment_that_fails_holds_up_no_others_and_is_tried_again() {
        let host = MockHost::with([1, 2, 3]).fate(2, Fate::NotFetched(FetchError::HashMismatch));
        let report = host.tick::<Strategy>();
        assert_eq!((report.applied, report.failed, report.pending), (2, 1, 1));
        assert!(!report.in_sync && host.logged("hash mismatch"));
        assert_eq!(host.tick::<Strategy>().missing, 1);
    }

    /// In the simulator of edgestore-host, once build.sh has made the component.
    #[test]
    fn two_nodes_converge_in_a_simulated_network() {
        let component = concat!(env!("CARGO_MANIFEST_DIR"), "/{{name}}.wasm");
        edgestore_policy::simulate(component, &["two-nodes-clean"], 3);
    }

    #[test]
    fn a_setting_that_does_not_exist_is_refused() {
        let host = MockHost::with([1]).setting("windwo", "8");
        let failure = host.try_tick::<Strategy>().unwrap_err();
        assert!(matches!(failure.error, PolicyError::Setting(why) if why.contains("window")));
    }
}

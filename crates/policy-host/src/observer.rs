//! Somebody who watches what a policy asks of the host: `policy run --explain`, a test.

use std::time::Duration;

/// One call of a policy into the host, after it returned.
#[derive(Debug, Clone)]
pub struct HostCall<'a> {
    /// Interface and function, as in `peer.start-fetch` or `local.apply`.
    pub name: &'static str,
    /// The arguments in words; empty when there are none to tell.
    pub arguments: &'a str,
    /// What the policy was told, in words; empty when it was told nothing.
    pub outcome: &'a str,
    /// Since the tick began, when the call was made.
    pub at: Duration,
    /// How long the host took.
    pub took: Duration,
}

/// Who is told of each host call. Called on the tick's thread.
pub trait Observer: Send + Sync {
    /// The call has returned, or it has ended the tick.
    fn called(&self, call: &HostCall<'_>);

    /// Whether it wants to be told of calls: words are made of each then.
    fn watches_calls(&self) -> bool {
        true
    }

    /// A tick has ended, and has used so much fuel.
    fn spent(&self, fuel: u64) {
        let _ = fuel;
    }
}

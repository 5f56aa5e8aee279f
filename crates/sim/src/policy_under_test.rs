//! The policy that is tested, and why it could not be.

use edgestore_policy_host::{LoadError, Policy, PolicyEngine};

/// The policy that is tested.
#[derive(Clone)]
pub struct PolicyUnderTest {
    pub(super) component: Vec<u8>,
    pub(super) variant: Vec<u8>,
    pub(super) policy: Policy,
    pub(super) engine: PolicyEngine,
    #[cfg(test)]
    pub(super) plant: super::injected_bugs::Plant,
}

impl PolicyUnderTest {
    /// Compiles a component by this engine, whose limits it has.
    ///
    /// # Errors
    /// When it is no policy.
    pub fn new(component: Vec<u8>, engine: PolicyEngine) -> Result<Self, LoadError> {
        // Hosts load it at each of many starts, and beside it the embedded one.
        let engine = engine.keep_all();
        let policy = engine.load(&component)?;
        // The same with a custom section: another hash, and nothing else.
        let mut variant = component.clone();
        variant.extend_from_slice(&[0, 5, 4, b'c', b'o', b'p', b'y']);
        Ok(Self {
            component,
            variant,
            policy,
            engine,
            #[cfg(test)]
            plant: super::injected_bugs::Plant::None,
        })
    }

    /// The same on hosts that have this fault.
    #[cfg(test)]
    pub(super) fn on_hosts_with(self, plant: super::injected_bugs::Plant) -> Self {
        Self { plant, ..self }
    }

    /// Name and version.
    pub fn title(&self) -> String {
        format!("{} {}", self.policy.name(), self.policy.version())
    }
}

/// Why a simulation could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The folder for the nodes can't be used.
    #[error("can't make the nodes' folders: {0}; check free space (TMPDIR chooses where)")]
    Folder(#[from] std::io::Error),
    /// A node did not start, with nothing wrong yet.
    #[error("node n{node} did not start: {why}")]
    Node {
        /// Its number.
        node: usize,
        /// What it said.
        why: String,
    },
}

//! What one policy may use.

use std::time::Duration;

use wasmtime::ResourceLimiter;

use super::{SettingsTooLarge, TickError};

/// What one policy may use in one tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Wall time of a tick. Default: 60 s.
    pub tick_timeout: Duration,
    /// Instructions of a tick, more or less: see [`wasmtime::Store::set_fuel`]. Default: 20 billion,
    /// which is one to ten seconds of doing nothing else.
    pub fuel: u64,
    /// Linear memory of an instance, in bytes. Default: 256 MiB.
    pub memory_bytes: u64,
    /// Elements of all tables of an instance. Interpreters compiled to wasm have some ten thousand.
    /// Default: 100,000.
    pub table_elements: usize,
    /// Core instances in one component. Interpreters with their libraries have some dozens.
    /// Default: 250.
    pub instances: usize,
    /// Handles that a policy may hold. Each costs the host a few hundred bytes at most. Default:
    /// 10,000.
    pub handles: usize,
    /// Calls into the host in a tick. Default: 10 million.
    pub host_calls: u64,
    /// Transfers alive at a time. Default: 64.
    pub transfers: usize,
    /// Bytes of segments pulled in a tick. Default: 16 GiB.
    pub pulled_bytes: u64,
    /// Size of all settings of the policy, keys and values, in bytes. Default: 64 KiB.
    pub settings_bytes: usize,
    /// Size of a cursor, in bytes. Default: 4 MiB.
    pub cursor_bytes: usize,
    /// Segments that `missing` returns, in the peer's order. The next tick is shown the next ones, and
    /// after the last the first again. Each takes some 80 bytes of the policy's memory. Default: 100,000.
    pub missing: usize,
    /// Log lines a tick. Default: 1000.
    pub log_lines: u32,
    /// Processor time of the compiler, in whole seconds. Interpreters take 40 s on a fast machine.
    /// Applies where a [`Compiler`](super::Compiler) is given. Default: 5 min.
    pub compile_time: Duration,
    /// Memory of the compiler, in bytes. Interpreters take 500 MB. Applies as
    /// [`Limits::compile_time`]. Default: 1 GiB.
    pub compile_memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tick_timeout: Duration::from_secs(60),
            fuel: 20_000_000_000,
            memory_bytes: 256 << 20,
            table_elements: 100_000,
            instances: 250,
            handles: 10_000,
            host_calls: 10_000_000,
            transfers: 64,
            pulled_bytes: 16 << 30,
            settings_bytes: 64 << 10,
            cursor_bytes: 4 << 20,
            missing: 100_000,
            log_lines: 1000,
            compile_time: Duration::from_secs(5 * 60),
            compile_memory_bytes: 1 << 30,
        }
    }
}

impl Limits {
    /// Whether a policy can be given these settings: to be asked before a host runs with them. A
    /// tick asks again.
    ///
    /// # Errors
    /// When they are larger than [`Limits::settings_bytes`].
    pub fn check_settings(&self, settings: &[(String, String)]) -> Result<(), SettingsTooLarge> {
        let bytes = settings.iter().map(|(key, value)| key.len() + value.len()).sum();
        let limit = self.settings_bytes;
        if bytes > limit { Err(SettingsTooLarge { bytes, limit }) } else { Ok(()) }
    }

    /// How long host calls of a tick may wait: so much less than the tick that the policy has time
    /// left to report.
    pub(super) fn budget(&self) -> Duration {
        self.tick_timeout - (self.tick_timeout / 10).min(Duration::from_secs(1))
    }
}

/// Manifests that a policy may hold. Each costs the host as much as the peer's list is long.
pub(super) const MANIFESTS: usize = 16;

/// Tables and memories of one component; interpreters with their libraries have some dozens.
pub(super) const TABLES: u32 = 100;
pub(super) const MEMORIES: u32 = 20;

/// Counts the memories of one store together, and its tables. A refusal is a [`TickError`].
pub(super) struct Limiter {
    memory_left: u64,
    elements_left: usize,
    memory_bytes: u64,
    table_elements: usize,
    instances: usize,
}

impl Limiter {
    pub(super) fn new(limits: &Limits) -> Self {
        let &Limits { memory_bytes, table_elements, instances, .. } = limits;
        let (memory_left, elements_left) = (memory_bytes, table_elements);
        Self { memory_left, elements_left, memory_bytes, table_elements, instances }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // The module's own limit: its `memory.grow` fails.
            return Ok(false);
        }
        let grown = desired.saturating_sub(current) as u64;
        let left = self.memory_left.checked_sub(grown);
        self.memory_left = left.ok_or(TickError::Memory(self.memory_bytes))?;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let left = self.elements_left.checked_sub(desired.saturating_sub(current));
        self.elements_left = left.ok_or(TickError::Table(self.table_elements))?;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        MEMORIES as usize
    }
}

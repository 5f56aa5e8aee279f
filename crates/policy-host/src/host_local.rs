//! The imports that stay on this machine: `local`, `cursor`, `archive`, `clock`, `random`, `log`.

use std::sync::Arc;
use std::time::SystemTime;

use edgestore_engine::{Applied, ApplyError};
use wasmtime::component::Resource;

use super::bindings::{archive, clock, cursor, local, log, random, types};
use super::instance::millis;
use super::log::printable;
use super::resources::{Content, Segment};
use super::state::State;
use super::{Services, SetAsideReason, TickError, UploadOutcome, state};

impl local::Host for State {
    fn root(&mut self) -> wasmtime::Result<types::Hash> {
        self.call("local.root", (), |state, ()| Ok(state.tick()?.services.engine.root().into()))
    }

    fn has(&mut self, hash: types::Hash) -> wasmtime::Result<bool> {
        self.call("local.has", hash, |state, hash| {
            Ok(state.tick()?.services.engine.has(&hash.into()))
        })
    }

    fn fetching(&mut self, hash: types::Hash) -> wasmtime::Result<bool> {
        self.call("local.fetching", hash, |state, hash| {
            let Services { downloads, clock, .. } = &state.tick()?.services;
            Ok(downloads.is_awaited(&hash.into(), clock.monotonic()))
        })
    }

    fn apply(
        &mut self,
        segment: Resource<Segment>,
    ) -> wasmtime::Result<Result<local::Applied, types::ApplyError>> {
        self.call("local.apply", segment, |state, segment| {
            let (table, tick) = state.parts()?;
            let segment = table.get_mut(&segment)?;
            let staged = match &mut segment.content {
                Content::Staged(staged, _) => staged,
                Content::Applied => {
                    let applied = Applied { duplicate: true, ..Applied::default() };
                    return Ok(Ok(applied.into()));
                }
                Content::Rejected => return Ok(Err(types::ApplyError::Rejected)),
                Content::Deferred => return Ok(Err(types::ApplyError::ClockAhead)),
            };
            let from = Arc::clone(&tick.services.peers[segment.peer]);
            match tick.services.engine.apply(staged) {
                Ok(applied) => {
                    segment.content = Content::Applied;
                    tick.staged -= 1;
                    if !applied.duplicate {
                        tick.applied.segments = tick.applied.segments.saturating_add(1);
                        tick.applied.written = tick.applied.written.saturating_add(applied.written);
                        tick.applied.skipped = tick.applied.skipped.saturating_add(applied.skipped);
                    }
                    Ok(Ok(applied.into()))
                }
                Err(ApplyError::Rejected { hash, why }) => {
                    segment.content = Content::Rejected;
                    tick.staged -= 1;
                    tick.peer_failed = true;
                    if tick.may_log() {
                        let (policy, peer) = (&tick.policy, from.id());
                        tracing::warn!(policy, peer, %hash, why, "segment rejected");
                    }
                    from.note_failure(hash, SetAsideReason::Rejected, why);
                    Ok(Err(types::ApplyError::Rejected))
                }
                Err(error @ ApplyError::ClockAhead { .. }) => {
                    tick.peer_failed = true;
                    if tick.may_log() {
                        let (policy, peer) = (&tick.policy, from.id());
                        tracing::warn!(policy, peer, %error, "segment not applied");
                    }
                    from.note_failure(segment.hash, SetAsideReason::Deferred, error.to_string());
                    // A transfer less for the next try.
                    let content = std::mem::replace(&mut segment.content, Content::Deferred);
                    tick.staged -= 1;
                    if let Content::Staged(staged, _) = content {
                        tick.services.downloads.defer(*staged, &tick.services.engine);
                    }
                    Ok(Err(types::ApplyError::ClockAhead))
                }
                Err(ApplyError::Storage(error)) => {
                    tick.note_storage_error(
                        &format!("can't apply segment {}", segment.hash),
                        &error,
                    );
                    Ok(Err(types::ApplyError::Storage))
                }
            }
        })
    }
}

impl From<Applied> for local::Applied {
    fn from(applied: Applied) -> Self {
        let Applied { written, skipped, duplicate } = applied;
        Self { written, skipped, duplicate }
    }
}

impl cursor::Host for State {
    fn load(&mut self) -> wasmtime::Result<Option<Vec<u8>>> {
        self.call("cursor.load", (), |state, ()| {
            let tick = state.tick()?;
            let loaded = tick.services.cursors.load(tick.current().id(), &tick.layout);
            let limit = tick.limits.cursor_bytes;
            match loaded {
                Ok(Some(value)) if value.len() > limit => {
                    if tick.may_log() {
                        let (policy, peer) = (&tick.policy, tick.current().id());
                        tracing::warn!(
                            policy,
                            peer,
                            bytes = value.len(),
                            limit,
                            "the cursor is too large; the policy starts without one"
                        );
                    }
                    Ok(None)
                }
                Ok(value) => Ok(value),
                // A policy that is told of no cursor would replace the one that is there.
                Err(error) => {
                    tick.note_storage_error("can't read the cursor", &error);
                    let text = format!("can't read the cursor: {}", state::chain(&error));
                    Err(TickError::Storage(text).into())
                }
            }
        })
    }

    fn store(&mut self, value: Vec<u8>) -> wasmtime::Result<Result<(), cursor::StoreError>> {
        self.call("cursor.store", value, |state, value| {
            let tick = state.tick()?;
            let limit = tick.limits.cursor_bytes;
            if value.len() > limit {
                return Ok(Err(cursor::StoreError::TooLarge(limit as u64)));
            }
            Ok(tick.services.cursors.store(tick.current().id(), &tick.layout, &value).map_err(
                |error| {
                    tick.note_storage_error("can't write the cursor", &error);
                    cursor::StoreError::Storage
                },
            ))
        })
    }
}

impl archive::Host for State {
    fn available(&mut self) -> wasmtime::Result<bool> {
        self.call("archive.available", (), |state, ()| Ok(state.tick()?.services.archive.is_some()))
    }

    fn upload(
        &mut self,
        segment: Resource<Segment>,
    ) -> wasmtime::Result<Result<archive::UploadOutcome, archive::UploadError>> {
        self.call("archive.upload", segment, |state, segment| {
            let (table, tick) = state.parts()?;
            let hash = table.get(&segment)?.hash;
            let services = &tick.services;
            let Some(archive) = &services.archive else {
                return Ok(Err(archive::UploadError::Unavailable));
            };
            if !services.engine.has(&hash) {
                return Ok(Err(archive::UploadError::NotApplied));
            }
            Ok(match archive.upload(&services.engine, hash) {
                Ok(UploadOutcome::Stored) => Ok(archive::UploadOutcome::Stored),
                Ok(UploadOutcome::AlreadyThere) => Ok(archive::UploadOutcome::AlreadyThere),
                Err(error) => {
                    if tick.may_log() {
                        let (policy, peer) = (&tick.policy, tick.current().id());
                        let error = state::chain(&error);
                        tracing::warn!(policy, peer, %hash, error, "can't archive a segment");
                    }
                    Err(archive::UploadError::Failed)
                }
            })
        })
    }
}

impl clock::Host for State {
    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        self.call("clock.now-ms", (), |state, ()| {
            let now = state.tick()?.services.clock.now();
            Ok(now.duration_since(SystemTime::UNIX_EPOCH).map(millis).unwrap_or(0))
        })
    }

    fn monotonic_ms(&mut self) -> wasmtime::Result<u64> {
        self.call("clock.monotonic-ms", (), |state, ()| {
            let tick = state.tick()?;
            tick.monotonic_ms = tick.monotonic_ms.max(millis(tick.services.clock.monotonic()));
            Ok(tick.monotonic_ms)
        })
    }
}

impl random::Host for State {
    fn next_u64(&mut self) -> wasmtime::Result<u64> {
        self.call("random.next-u64", (), |state, ()| Ok(state.tick()?.random.u64(..)))
    }
}

impl log::Host for State {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.call("log.write", (level, message), |state, (level, message)| {
            let tick = state.tick()?;
            if tick.may_log() {
                let (policy, peer) = (&tick.policy, tick.current().id());
                let message = printable(&message);
                match level {
                    log::Level::Error => tracing::error!(policy, peer, "{message}"),
                    log::Level::Warn => tracing::warn!(policy, peer, "{message}"),
                    log::Level::Info => tracing::info!(policy, peer, "{message}"),
                    log::Level::Debug => tracing::debug!(policy, peer, "{message}"),
                }
            }
            Ok(())
        })
    }
}

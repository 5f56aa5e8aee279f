//! What a site with sensors would write on two nodes: readings, corrections of them, deletions,
//! readings that expire, and the same keys on both nodes.

use std::time::{Duration, SystemTime};

use crate::engine::{Engine, EngineError, WriteBatch};

const READINGS: &[u8] = b"readings";
const DEVICES: &[u8] = b"devices";

/// Records of one batch.
const BATCH: usize = 1000;
/// Segments that the readings of the primary make, at least.
const SEGMENTS: u64 = 8;
/// 2026-01-01T00:00:00Z.
const FIRST_READING: u64 = 1_767_225_600;
/// Raw readings are kept for so long.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Writes `records` readings to the primary and a tenth of it to the replica, of which some are
/// about the same sensors and times. `progress` is told how many the primary has.
pub(super) fn write(
    primary: &Engine,
    replica: &Engine,
    records: u64,
    progress: impl Fn(u64),
) -> Result<(), EngineError> {
    let site = Site { devices: (records / 1000).clamp(5, 500), rng: fastrand::Rng::with_seed(42) };
    let shared = (records / 50).max(1);
    // The primary writes these later, and wins.
    let mut here = Node::new(replica, site.clone());
    for n in 0..shared {
        here.reading(n * 20 % records, "replica", None)?;
    }
    here.flush()?;

    let mut there = Node::new(primary, site.clone());
    for device in 0..site.devices {
        there.device(device, "1.4.2")?;
    }
    let segment = records.div_ceil(SEGMENTS);
    for n in 0..records {
        there.reading(n, "primary", (n % 50 == 7).then_some(WEEK))?;
        if n % 100 == 99 {
            // A correction, and now and then a reading that was none.
            let earlier = there.site.rng.u64(0..n);
            if n % 300 == 299 {
                there.delete(earlier)?
            } else {
                there.reading(earlier, "corrected", None)?
            }
        }
        if (n + 1) % segment == 0 {
            there.flush()?;
        }
        if n % 1000 == 999 {
            progress(n + 1);
        }
    }
    there.flush()?;

    // And these the replica writes later.
    for n in 0..shared {
        let n = n * 35 % records;
        if n.is_multiple_of(3) { here.delete(n)? } else { here.reading(n, "replica", None)? }
    }
    here.flush()?;
    for n in records..records + records / 10 {
        here.reading(n, "replica", None)?;
    }
    for device in 0..site.devices / 2 {
        here.device(device, "1.5.0")?;
    }
    here.flush()
}

#[derive(Clone)]
struct Site {
    devices: u64,
    rng: fastrand::Rng,
}

/// A node that is being written to.
struct Node<'a> {
    engine: &'a Engine,
    site: Site,
    batch: WriteBatch,
}

impl<'a> Node<'a> {
    fn new(engine: &'a Engine, site: Site) -> Self {
        Self { engine, site, batch: WriteBatch::new() }
    }

    fn device(&mut self, device: u64, firmware: &str) -> Result<(), EngineError> {
        let name = format!("sensor-{device:04}");
        let hall = 1 + device % 7;
        let value = format!(r#"{{"model":"TH-20","hall":{hall},"firmware":"{firmware}"}}"#);
        self.batch.put(DEVICES, name.as_bytes(), value.as_bytes(), None);
        self.written()
    }

    fn reading(&mut self, n: u64, by: &str, ttl: Option<Duration>) -> Result<(), EngineError> {
        let (device, minute, key) = self.site.place(n);
        // Warmest at three in the afternoon.
        let day = ((minute % 1440) as f64 / 1440.0 - 0.375) * std::f64::consts::TAU;
        let noise = self.site.rng.f64() - 0.5;
        let celsius = 19.0 + (device % 7) as f64 * 0.5 + 3.0 * day.sin() + noise;
        let battery = 1.0 - (minute % 100_000) as f64 / 120_000.0;
        let value = format!(
            r#"{{"device":"sensor-{device:04}","celsius":{celsius:.1},"battery":{battery:.2},"by":"{by}"}}"#
        );
        self.batch.put(READINGS, key.as_bytes(), value.as_bytes(), ttl);
        self.written()
    }

    fn delete(&mut self, n: u64) -> Result<(), EngineError> {
        let (_, _, key) = self.site.place(n);
        self.batch.delete(READINGS, key.as_bytes());
        self.written()
    }

    fn written(&mut self) -> Result<(), EngineError> {
        if self.batch.len() >= BATCH { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), EngineError> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.engine.write(batch).map(drop) }
    }

    /// Makes a segment.
    fn flush(&mut self) -> Result<(), EngineError> {
        self.write()?;
        self.engine.flush().map(drop)
    }
}

impl Site {
    /// Device, minute and key of the nth reading: each device is read once a minute.
    fn place(&self, n: u64) -> (u64, u64, String) {
        let (device, minute) = (n % self.devices, n / self.devices);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(FIRST_READING + minute * 60);
        let time = humantime::format_rfc3339_seconds(time);
        (device, minute, format!("sensor-{device:04}/{time}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_have_keys_of_their_own_in_the_order_of_time() {
        let site = Site { devices: 5, rng: fastrand::Rng::new() };
        assert_eq!(site.place(0).2, "sensor-0000/2026-01-01T00:00:00Z");
        assert_eq!(site.place(11), (1, 2, "sensor-0001/2026-01-01T00:02:00Z".to_owned()));
        let keys: std::collections::HashSet<_> = (0..1000).map(|n| site.place(n).2).collect();
        assert_eq!(keys.len(), 1000);
    }
}

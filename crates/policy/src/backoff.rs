//! How long to leave a failing segment or a dead peer alone: exponential, capped, and spread by
//! chance so that many hosts do not come back at the same moment.

/// Until the next try of a segment that failed `tries` times (at least 1): from half to the whole of
/// `base_ms * 2^(tries - 1)`, at most `cap_ms`.
pub fn segment_ms(tries: u32, base_ms: u64, cap_ms: u64, random: u64) -> u64 {
    let whole = doubled(base_ms, tries).min(cap_ms);
    between(whole / 2, whole, random)
}

/// Until the next tick after `failures` failed ones in a row (at least 1): from three quarters to the
/// whole of `interval_ms * 2^(failures - 1)`, at most `cap_ms`, but never below the interval.
pub fn peer_ms(failures: u32, interval_ms: u64, cap_ms: u64, random: u64) -> u64 {
    let whole = doubled(interval_ms, failures).min(cap_ms).max(interval_ms);
    between((whole - whole / 4).max(interval_ms), whole, random)
}

/// `ms * 2^(times - 1)`, as far as a u64 goes.
pub fn doubled(ms: u64, times: u32) -> u64 {
    let factor = 1u64.checked_shl(times.saturating_sub(1)).unwrap_or(u64::MAX);
    ms.saturating_mul(factor)
}

fn between(low: u64, high: u64, random: u64) -> u64 {
    low + random % (high - low).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: [u64; 5] = [0, 1, 12_345_678_901, u64::MAX / 2, u64::MAX];

    #[test]
    fn a_segment_waits_twice_as_long_after_each_failure_up_to_the_cap() {
        for (tries, whole) in
            [(1, 1000), (2, 2000), (3, 4000), (9, 256_000), (10, 300_000), (u32::MAX, 300_000)]
        {
            for random in RANDOM {
                let ms = segment_ms(tries, 1000, 300_000, random);
                assert!((whole / 2..=whole).contains(&ms), "try {tries}: {ms}");
            }
        }
        assert_eq!(segment_ms(1, 1000, 300_000, 0), 500);
        assert_eq!(segment_ms(1, 1000, 300_000, 500), 1000);
    }

    #[test]
    fn a_peer_is_probed_at_the_interval_then_ever_more_rarely_up_to_the_cap() {
        for (failures, whole) in
            [(1, 30_000), (2, 60_000), (3, 120_000), (6, 900_000), (u32::MAX, 900_000)]
        {
            for random in RANDOM {
                let ms = peer_ms(failures, 30_000, 900_000, random);
                assert!(
                    ms >= 30_000 && (whole * 3 / 4..=whole).contains(&ms),
                    "failure {failures}: {ms}"
                );
            }
        }
    }

    #[test]
    fn a_cap_below_the_interval_is_the_interval() {
        for random in RANDOM {
            assert_eq!(peer_ms(7, 30_000, 1000, random), 30_000);
        }
    }

    #[test]
    fn nothing_overflows() {
        for random in RANDOM {
            assert!(segment_ms(u32::MAX, u64::MAX, u64::MAX, random) >= u64::MAX / 2);
            assert!(peer_ms(0, u64::MAX, u64::MAX, random) == u64::MAX);
            assert_eq!(peer_ms(5, 0, 0, random), 0);
        }
    }
}

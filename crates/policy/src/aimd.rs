//! A window that finds out how many transfers the line and the peer bear: additive increase,
//! multiplicative decrease. Give its size to [`Pull::set_window`](crate::Pull::set_window) after
//! each landing.
//!
//! Its clock is the round: as many landings as the window is large. A round that brought more bytes a
//! second than the one before makes the next one larger by one transfer. It counts as more from half
//! of what one transfer more should bring. One that did not makes it smaller by an eighth, and one
//! with a failure by a half.

/// How many transfers to have in flight.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    size: usize,
    most: usize,
    /// Of this round.
    landed: usize,
    bytes: u64,
    began_ms: u64,
    /// Bytes a second of the round before; none after a change downwards, when there is nothing to
    /// compare with.
    rate: Option<u64>,
    /// What was started before is a matter of an older window.
    halved_ms: Option<u64>,
}

impl Window {
    /// A window of `size`, which grows to `most`. Both are at least 1.
    pub fn new(size: usize, most: usize, now_ms: u64) -> Window {
        let most = most.max(1);
        let size = size.clamp(1, most);
        Window { size, most, landed: 0, bytes: 0, began_ms: now_ms, rate: None, halved_ms: None }
    }

    /// Transfers in flight.
    pub fn size(&self) -> usize {
        self.size
    }

    /// A segment of so many bytes came. Times are by the monotonic clock.
    pub fn landed(&mut self, bytes: u64, now_ms: u64) {
        self.landed += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.landed < self.size {
            return;
        }
        let took_ms = now_ms.saturating_sub(self.began_ms).max(1);
        let rate = self.bytes.saturating_mul(1000) / took_ms;
        let expected = |before: u64| before.saturating_add(before / (2 * self.size as u64));
        if self.rate.is_none_or(|before| rate > expected(before)) {
            self.size = (self.size + 1).min(self.most);
            self.rate = Some(rate);
        } else if self.size < self.most {
            self.size = (self.size - self.size.div_ceil(8)).max(1);
            self.rate = None;
        }
        self.begin_round(now_ms);
    }

    /// A transfer that was started then failed, since there are too many of them. All of one window
    /// may fail, and halve it once.
    pub fn failed(&mut self, started_ms: u64, now_ms: u64) {
        if self.halved_ms.is_some_and(|halved_ms| started_ms <= halved_ms) {
            return;
        }
        self.size = (self.size / 2).max(1);
        self.rate = None;
        self.halved_ms = Some(now_ms);
        self.begin_round(now_ms);
    }

    fn begin_round(&mut self, now_ms: u64) {
        (self.landed, self.bytes, self.began_ms) = (0, 0, now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds on a line where a transfer takes 100 ms and `most` of them go side by side.
    fn after(rounds: usize, most: usize, mut window: Window) -> usize {
        let mut now_ms = 0;
        for _ in 0..rounds {
            let size = window.size();
            now_ms += 100 * size.div_ceil(most) as u64;
            (0..size).for_each(|_| window.landed(1000, now_ms));
        }
        window.size()
    }

    #[test]
    fn it_grows_by_one_a_round_as_long_as_that_brings_more() {
        assert_eq!(after(1, 99, Window::new(4, 16, 0)), 5);
        assert_eq!(after(8, 99, Window::new(4, 16, 0)), 12);
        assert_eq!(after(99, 99, Window::new(4, 16, 0)), 16, "the most");
    }

    #[test]
    fn it_stays_about_where_more_brings_nothing() {
        for rounds in 20..60 {
            let size = after(rounds, 6, Window::new(1, 64, 0));
            assert!((5..=8).contains(&size), "{size} after {rounds} rounds");
        }
    }

    #[test]
    fn a_failure_halves_it_and_those_of_the_same_window_do_not_again() {
        let mut window = Window::new(16, 64, 0);
        window.failed(10, 20);
        window.failed(11, 25);
        assert_eq!(window.size(), 8);
        window.failed(21, 30);
        assert_eq!(window.size(), 4);
        (0..9).for_each(|n| window.failed(100 * n + 31, 100 * n + 99));
        assert_eq!(window.size(), 1);
    }

    #[test]
    fn a_window_from_the_cursor_is_kept_within_the_settings() {
        assert_eq!(Window::new(64, 8, 0).size(), 8);
        assert_eq!(Window::new(0, 8, 0).size(), 1);
        assert_eq!(Window::new(8, 0, 0).size(), 1);
    }
}

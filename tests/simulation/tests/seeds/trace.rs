//! What happened, in order: a digest of all of it, and the end in words.

use std::collections::VecDeque;

/// Events that a failure shows.
const TAIL: usize = 120;

/// One event: when, what, and two numbers that say more.
#[derive(Clone, Copy)]
struct Event {
    at_ms: u64,
    what: &'static str,
    a: u64,
    b: u64,
}

/// The trace of one run.
#[derive(Default)]
pub(crate) struct Trace {
    digest: u64,
    count: u64,
    tail: VecDeque<Event>,
}

impl Trace {
    pub(crate) fn note(&mut self, at_ms: u64, what: &'static str, a: u64, b: u64) {
        for byte in what.bytes() {
            self.mix(u64::from(byte));
        }
        for number in [at_ms, a, b] {
            self.mix(number);
        }
        self.count += 1;
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(Event { at_ms, what, a, b });
    }

    fn mix(&mut self, number: u64) {
        self.digest = (self.digest ^ number)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(23);
    }

    /// Events so far: the moment as a number that grows.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn tail(&self) -> String {
        let lines = self.tail.iter().map(|event| {
            let Event { at_ms, what, a, b } = event;
            format!("  {at_ms:>8} ms  {what:<28} {a:>8} {b:>8}\n")
        });
        lines.collect()
    }
}

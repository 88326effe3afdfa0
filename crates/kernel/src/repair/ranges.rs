//! Places of a log as text: `5-7 300`.

use std::fmt;

/// Ranges in ascending order, none touching the next.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

/// Ranges that one entry names.
const RANGES_MAX: usize = 500;

impl Ranges {
    /// Adds a place above all that are there.
    pub(crate) fn push(&mut self, place: u64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == place => *last = place,
            _ => self.0.push((place, place)),
        }
    }

    /// As text that fits into an entry: where there are too many ranges, the nearest are joined, and name places in between too.
    pub(crate) fn shortened(mut self) -> String {
        let mut apart = 1;
        while self.0.len() > RANGES_MAX {
            apart *= 2;
            let mut joined: Vec<(u64, u64)> = Vec::new();
            for (first, end) in self.0 {
                match joined.last_mut() {
                    Some((_, last)) if first - *last <= apart => *last = end,
                    _ => joined.push((first, end)),
                }
            }
            self.0 = joined;
        }
        self.to_string()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, place: u64) -> bool {
        self.0
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&place))
    }

    /// Every place.
    pub(crate) fn places(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// Places in all ranges.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some((first, last))
        };
        text.split(' ').map(range).collect::<Option<_>>().map(Self)
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            match first == last {
                true => write!(f, "{space}{first}")?,
                false => write!(f, "{space}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_back_and_stay_short() {
        let mut ranges = Ranges::default();
        for place in [5, 6, 7, 300] {
            ranges.push(place);
        }
        assert_eq!(ranges.to_string(), "5-7 300");
        assert_eq!(Ranges::parse("5-7 300"), Some(ranges.clone()));
        assert!(ranges.contains(6) && !ranges.contains(8));
        assert_eq!(ranges.count(), 4);
        for wrong in ["", "7-5", "a", "1,2", "1-2-3"] {
            assert_eq!(Ranges::parse(wrong), None, "{wrong}");
        }
        let mut many = Ranges::default();
        (0..10_000)
            .map(|n| n * 3)
            .for_each(|place| many.push(place));
        assert_eq!(many.count(), 10_000);
        let text = many.shortened();
        assert!(text.len() < 20_000);
        let many = Ranges::parse(&text).unwrap();
        assert!((0..10_000).all(|n| many.contains(n * 3)));
    }
}

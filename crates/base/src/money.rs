//! Exact money. Amounts are pico-USD, prices atto-USD per unit; no floating point anywhere.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

const PICO_PER_USD: i128 = 1_000_000_000_000;
const ATTO_PER_PICO: i128 = 1_000_000;

/// An amount in pico-USD (1e-12 USD). Addition saturates: a ledger of 1.7e26 USD is not a case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Money(i128);

/// A decimal text that is not an amount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecimalError;

impl fmt::Display for DecimalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a decimal number in range")
    }
}

impl std::error::Error for DecimalError {}

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount.
    pub const MAX: Self = Self(i128::MAX);

    /// An amount of pico-USD.
    #[must_use]
    pub const fn from_pico(pico: i128) -> Self {
        Self(pico)
    }

    /// The amount in pico-USD.
    #[must_use]
    pub const fn pico(self) -> i128 {
        self.0
    }

    /// Reads decimal text in USD (`12`, `0.1`, `1e-6`), exact to 1e-12; finer digits are refused.
    ///
    /// # Errors
    /// When the text is not a decimal number, has digits below one pico-USD, or is out of range.
    pub fn parse_usd(text: &str) -> Result<Self, DecimalError> {
        decimal_scaled(text, 12).map(Self)
    }
}

impl Add for Money {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Money {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Money {
    /// USD in plain digits, no exponent, no trailing zeros: `0.000123`, `5`, `-0.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.unsigned_abs();
        let scale = PICO_PER_USD.unsigned_abs();
        let (whole, rest) = (magnitude / scale, magnitude % scale);
        if rest == 0 {
            return write!(f, "{sign}{whole}");
        }
        let fraction = format!("{rest:012}");
        write!(f, "{sign}{whole}.{}", fraction.trim_end_matches('0'))
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} USD")
    }
}

/// A price in atto-USD (1e-18 USD) per unit (token, request). Never negative.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Price(i128);

impl Price {
    /// Free of charge, said explicitly.
    pub const ZERO: Self = Self(0);

    /// Reads decimal text in USD per unit (`1.5e-7`, `0.00000015`, `0`).
    ///
    /// # Errors
    /// When the text is not a decimal number, is negative, is finer than 1e-18 or above 1e9 USD.
    pub fn parse_usd(text: &str) -> Result<Self, DecimalError> {
        let atto = decimal_scaled(text, 18)?;
        if (0..=1_000_000_000_000_000_000_000_000_000).contains(&atto) {
            Ok(Self(atto))
        } else {
            Err(DecimalError)
        }
    }

    /// The price in atto-USD.
    #[must_use]
    pub const fn atto(self) -> i128 {
        self.0
    }
}

impl fmt::Debug for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}e-18 USD", self.0)
    }
}

/// What an operator puts on top of list prices: `parts per million`, 1_000_000 is list price.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Markup(u32);

impl Markup {
    /// List price.
    pub const NONE: Self = Self(1_000_000);

    /// A factor from decimal text: `1.2` is list price plus 20 %. From 0 to 1000, six digits.
    ///
    /// # Errors
    /// When the text is not such a number.
    pub fn parse(text: &str) -> Result<Self, DecimalError> {
        let ppm = decimal_scaled(text, 6)?;
        match u32::try_from(ppm) {
            Ok(ppm) if ppm <= 1_000_000_000 => Ok(Self(ppm)),
            _ => Err(DecimalError),
        }
    }

    /// The factor in parts per million.
    #[must_use]
    pub const fn ppm(self) -> u32 {
        self.0
    }
}

/// Adds up a row in exact atto-USD and rounds once.
#[derive(Clone, Copy, Default, Debug)]
pub struct RowTotal(i128);

impl RowTotal {
    /// Adds `units` at `price`.
    pub fn add(&mut self, units: u64, price: Price) {
        self.0 = self
            .0
            .saturating_add(price.0.saturating_mul(i128::from(units)));
    }

    /// The row's amount: markup applied, then rounded half to even to one pico-USD, once.
    #[must_use]
    pub fn round(self, markup: Markup) -> Money {
        let scaled = self.0.saturating_mul(i128::from(markup.0));
        Money(div_half_even(scaled, ATTO_PER_PICO * 1_000_000))
    }

    /// The row's amount rounded up: for reservations, which must never be below the charge.
    #[must_use]
    pub fn round_up(self, markup: Markup) -> Money {
        let scaled = self.0.saturating_mul(i128::from(markup.0));
        let unit = ATTO_PER_PICO * 1_000_000;
        Money(scaled.div_euclid(unit) + i128::from(scaled.rem_euclid(unit) != 0))
    }
}

fn div_half_even(value: i128, unit: i128) -> i128 {
    let (whole, rest) = (value.div_euclid(unit), value.rem_euclid(unit));
    match (rest * 2).cmp(&unit) {
        std::cmp::Ordering::Less => whole,
        std::cmp::Ordering::Greater => whole + 1,
        std::cmp::Ordering::Equal => whole + (whole & 1),
    }
}

/// Decimal text times 10^`scale`, exact. Grammar: `[-+]digits[.digits][e[+-]digits]`.
fn decimal_scaled(text: &str, scale: i32) -> Result<i128, DecimalError> {
    let (negative, text) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            (mantissa, exponent.parse::<i32>().map_err(|_| DecimalError)?)
        }
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() || text.len() > 64 || exponent.unsigned_abs() > 64 {
        return Err(DecimalError);
    }
    let mut value: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        if !digit.is_ascii_digit() {
            return Err(DecimalError);
        }
        value = value
            .checked_mul(10)
            .and_then(|v| v.checked_add(i128::from(digit - b'0')))
            .ok_or(DecimalError)?;
    }
    let fraction_len = i32::try_from(fraction.len()).map_err(|_| DecimalError)?;
    let mut shift = scale + exponent - fraction_len;
    while shift > 0 && value != 0 {
        value = value.checked_mul(10).ok_or(DecimalError)?;
        shift -= 1;
    }
    while shift < 0 && value != 0 {
        if value % 10 != 0 {
            return Err(DecimalError);
        }
        value /= 10;
        shift += 1;
    }
    Ok(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_and_prints() {
        for (text, shown) in [
            ("0", "0"),
            ("5", "5"),
            ("0.10", "0.1"),
            ("1e-6", "0.000001"),
            ("-0.5", "-0.5"),
            ("1.000000000001", "1.000000000001"),
            (".5", "0.5"),
            ("2.50e2", "250"),
        ] {
            assert_eq!(
                Money::parse_usd(text).map(|m| m.to_string()),
                Ok(shown.to_owned()),
                "{text}"
            );
        }
        for bad in [
            "",
            ".",
            "e5",
            "1e",
            "1e-13",
            "0x1",
            "1,5",
            "NaN",
            "1e999",
            "--1",
            "1.2.3",
            "١",
            "1e+-1",
            "1e-2147483648",
            "1e2147483647",
            "1e-65",
            "-",
            "+",
            "e",
            "é",
        ] {
            assert_eq!(Money::parse_usd(bad), Err(DecimalError), "{bad}");
        }
        assert_eq!(Price::parse_usd("-1"), Err(DecimalError));
    }

    #[test]
    fn the_ends_of_the_range_are_no_panics() {
        let largest = Money::MAX.to_string();
        assert_eq!(Money::parse_usd(&largest), Ok(Money::MAX));
        assert_eq!(
            Money::parse_usd("170141183460469231731687303.715884105728"),
            Err(DecimalError)
        );
        assert_eq!(Money::parse_usd(&"9".repeat(64)), Err(DecimalError));
        assert_eq!(Money::parse_usd(&"0".repeat(64)), Ok(Money::ZERO));
        assert_eq!(Money::parse_usd(&"0".repeat(65)), Err(DecimalError));
        assert_eq!(Money::parse_usd("0e-64"), Ok(Money::ZERO));
        assert_eq!(Money::parse_usd("1e64"), Err(DecimalError));
        assert_eq!(
            Price::parse_usd("1e9").map(Price::atto),
            Ok(10_i128.pow(27))
        );
        let least = Money::from_pico(i128::MIN);
        assert_eq!(least + least, least);
        assert_eq!(Money::ZERO - least, Money::MAX);
        assert!(least.to_string().starts_with("-1701411834"));
        for atto in [i128::MIN, -1, i128::MAX] {
            let row = RowTotal(atto);
            let markup = Markup::parse("1000").unwrap();
            assert!(row.round_up(markup) >= row.round(markup));
        }
        let mut row = RowTotal::default();
        row.add(u64::MAX, Price::parse_usd("1e9").unwrap());
        row.add(u64::MAX, Price::parse_usd("1e9").unwrap());
        assert_eq!(row.0, i128::MAX);
    }

    #[test]
    fn rounds_half_to_even_once() {
        let at = |atto: i128| RowTotal(atto).round(Markup::NONE).pico();
        assert_eq!(at(500_000), 0);
        assert_eq!(at(1_500_000), 2);
        assert_eq!(at(2_500_000), 2);
        assert_eq!(at(2_500_001), 3);
        assert_eq!(RowTotal(1).round_up(Markup::NONE).pico(), 1);
    }

    proptest! {
        #[test]
        fn printing_round_trips(pico in -10_i128.pow(30)..10_i128.pow(30)) {
            let money = Money(pico);
            prop_assert_eq!(Money::parse_usd(&money.to_string()), Ok(money));
        }

        #[test]
        fn arbitrary_text_never_panics(text in r"[-+]?[0-9]{0,50}\.?[0-9]{0,50}([eE][-+]?[0-9]{0,12})?", other in any::<String>()) {
            for text in [&text, &other] {
                let _ = Money::parse_usd(text);
                let _ = Price::parse_usd(text);
                let _ = Markup::parse(text);
            }
        }

        #[test]
        fn a_reservation_is_never_below_the_charge(tokens in 0_u64..1 << 40, atto in 0_i128..10_i128.pow(16), ppm in 0_u32..3_000_000) {
            let mut total = RowTotal::default();
            total.add(tokens, Price(atto));
            prop_assert!(total.round_up(Markup(ppm)) >= total.round(Markup(ppm)));
        }
    }
}

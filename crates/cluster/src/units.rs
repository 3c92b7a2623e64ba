//! Quantities as a person writes them and as the control plane counts them: whole numbers only.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes: `"2 GiB"`, `"512 MB"` or a whole number in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl Bytes {
    /// Reads `"1.5 GiB"`; a number without a unit is bytes.
    pub fn parse(text: &str) -> Option<Bytes> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..split], text[split..].trim());
        let factor = match unit {
            "" => 1,
            unit => SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.len() > 6 || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let scale = 10u64.pow(fraction.len() as u32);
        let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        let part = u128::from(fraction) * u128::from(factor) / u128::from(scale);
        let total = u128::from(whole) * u128::from(factor) + part;
        u64::try_from(total).ok().map(Bytes)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZES.iter().take(4).find(|(_, size)| self.0 >= *size);
        match unit {
            Some((name, size)) if self.0.is_multiple_of(*size) => write!(f, "{} {name}", self.0 / size),
            Some((name, size)) => write!(f, "{:.1} {name}", self.0 as f64 / *size as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"2 GiB\" or a whole number of bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                Bytes::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Bytes, E> {
                Ok(Bytes(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Bytes, E> {
                u64::try_from(value)
                    .map(Bytes)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
            }
        }
        deserializer.deserialize_any(BytesVisitor)
    }
}

/// A length of time in milliseconds: `"7d"`, `"1h30m"` or a whole number of seconds in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub u64);

const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Span {
    /// Reads `"90s"`, `"10m"` or `"1h30m"`; a number without a unit is seconds.
    pub fn parse(text: &str) -> Option<Span> {
        let mut rest = text.trim();
        if let Ok(seconds) = rest.parse::<u64>() {
            return seconds.checked_mul(1000).map(Span);
        }
        let mut total = 0_u64;
        while !rest.is_empty() {
            let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
            let (unit, after) =
                after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
            let factor = TIMES.iter().find(|(name, _)| *name == unit)?.1;
            total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
            rest = after;
        }
        (!text.trim().is_empty()).then_some(Span(total))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        for (name, factor) in TIMES {
            if left >= factor {
                write!(f, "{}{name}", left / factor)?;
                left %= factor;
            }
        }
        if self.0 == 0 { f.write_str("0s") } else { Ok(()) }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpanVisitor;
        impl Visitor<'_> for SpanVisitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as \"7d\" or \"1h30m\", or a whole number of seconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                Span::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Span, E> {
                let span = value.checked_mul(1000).map(Span);
                span.ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Span, E> {
                match u64::try_from(value) {
                    Ok(seconds) => self.visit_u64(seconds),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
                }
            }
        }
        deserializer.deserialize_any(SpanVisitor)
    }
}

/// Thousandths of a resource: `0.5` in a file is 500, so that sums are exact.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct Milli(pub u64);

impl Milli {
    /// Most of one resource, in units: keeps every sum far from overflow.
    pub const MAX_UNITS: u64 = 1_000_000_000;

    /// `units` whole units.
    pub const fn whole(units: u64) -> Milli {
        Milli(units * 1000)
    }

    /// `units`, rounded to thousandths; nothing below 0, not finite or above [`Milli::MAX_UNITS`].
    pub fn from_units(units: f64) -> Option<Milli> {
        let fits = units.is_finite() && units >= 0.0 && units <= Self::MAX_UNITS as f64;
        fits.then(|| Milli((units * 1000.0).round() as u64))
    }

    /// Whole units, rounded up.
    pub const fn ceil(self) -> u64 {
        self.0.div_ceil(1000)
    }

    /// Whole units, if that is what it is.
    pub const fn as_whole(self) -> Option<u64> {
        if self.0.is_multiple_of(1000) { Some(self.0 / 1000) } else { None }
    }
}

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 1000 {
            0 => write!(f, "{}", self.0 / 1000),
            rest => write!(f, "{}.{}", self.0 / 1000, format!("{rest:03}").trim_end_matches('0')),
        }
    }
}

impl Serialize for Milli {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0 as f64 / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Milli {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MilliVisitor;
        impl Visitor<'_> for MilliVisitor {
            type Value = Milli;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number from 0 to {}", Milli::MAX_UNITS)
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Milli, E> {
                Milli::from_units(value).ok_or_else(|| E::invalid_value(de::Unexpected::Float(value), &self))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Milli, E> {
                self.visit_f64(value as f64)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Milli, E> {
                Milli::from_units(value as f64)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(value), &self))
            }
        }
        deserializer.deserialize_any(MilliVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        assert_eq!(Bytes::parse("2 GiB"), Some(Bytes(2 << 30)));
        assert_eq!(Bytes::parse("1.5KiB"), Some(Bytes(1536)));
        assert_eq!(Bytes::parse("12"), Some(Bytes(12)));
        assert_eq!(Bytes::parse("3 apples"), None);
        assert_eq!(Bytes::parse("GiB"), None);
        assert_eq!(Bytes::parse("99999999999 TiB"), None);
        assert_eq!(Bytes(2 << 30).to_string(), "2 GiB");
        assert_eq!(Bytes(1536).to_string(), "1.5 KiB");
    }

    #[test]
    fn times_are_read_and_printed() {
        assert_eq!(Span::parse("7d"), Some(Span(7 * 86_400_000)));
        assert_eq!(Span::parse(" 1h30m "), Some(Span(5_400_000)));
        assert_eq!(Span::parse("90"), Some(Span(90_000)));
        assert_eq!(Span::parse("250ms"), Some(Span(250)));
        for wrong in ["", "h", "7 days", "1.5h", "-1s", "99999999999999999999d", "1h30", "7D"] {
            assert_eq!(Span::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Span(5_400_250).to_string(), "1h30m250ms");
        assert_eq!(Span(0).to_string(), "0s");
        assert_eq!(Span::parse(&Span(694_861_001).to_string()), Some(Span(694_861_001)));
    }

    #[test]
    fn thousandths_are_exact() {
        assert_eq!(Milli::from_units(0.1), Some(Milli(100)));
        assert_eq!(Milli::from_units(-0.1), None);
        assert_eq!(Milli::from_units(f64::NAN), None);
        assert_eq!(Milli(1500).to_string(), "1.5");
        assert_eq!(Milli::whole(3).to_string(), "3");
        assert_eq!(Milli(1500).ceil(), 2);
    }
}

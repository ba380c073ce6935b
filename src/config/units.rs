use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// An amount of memory. Written `8GiB`, `512MiB` or as plain bytes; shown in GiB with one decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(format!("unknown unit {:?}; use B, KiB, MiB, GiB or TiB", unit.trim())),
        };
        let value: f64 = number.parse().map_err(|_| format!("{text:?} is not an amount like 512MiB or 8GiB"))?;
        let bytes = value * scale as f64;
        if bytes > u64::MAX as f64 {
            Err(format!("{text:?} is more than any machine has"))
        } else {
            Ok(Self(bytes as u64))
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 30 => write!(f, "{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
            bytes if bytes >= 1 << 20 => write!(f, "{:.0} MiB", bytes as f64 / f64::from(1 << 20)),
            bytes => write!(f, "{bytes} B"),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Amount;
        impl Visitor<'_> for Amount {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of memory like 512MiB or 8GiB")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Bytes, E> {
                Ok(Bytes(value))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Bytes, E> {
                u64::try_from(value).map(Bytes).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Amount)
    }
}

/// The price of a kilowatt-hour, in millionths of the owner's currency. Written `0.32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price(u64);

impl Price {
    /// What so much energy costs, in millionths of the currency.
    pub fn cost_micros(self, joules: f64) -> u64 {
        (self.0 as f64 * joules / 3.6e6).round() as u64
    }
}

impl FromStr for Price {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let price = text.trim().parse().ok().filter(|price| (0.0..=1e6).contains(price));
        let price: f64 = price.ok_or_else(|| format!("{text:?} is not a price like 0.32"))?;
        Ok(Self((price * 1e6).round() as u64))
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Decimal;
        impl Visitor<'_> for Decimal {
            type Value = Price;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a price like 0.32")
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Price, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Price, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Price, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Price, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Decimal)
    }
}

/// A span of time, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Seconds(pub u64);

impl Seconds {
    /// The span as the standard library has it.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        let check = |text: &str, expected: Result<u64, ()>| {
            assert_eq!(text.parse::<Bytes>().map(|bytes| bytes.0).map_err(|_| ()), expected, "{text}");
        };
        check("0", Ok(0));
        check("512MiB", Ok(512 << 20));
        check(" 7.5 GiB ", Ok(15 << 29));
        check("8gb", Ok(8_000_000_000));
        check("8 potatoes", Err(()));
        check("-1", Err(()));
        check("1e99", Err(()));
    }

    #[test]
    fn prices() {
        let check = |text: &str, joules: f64, expected: Option<u64>| {
            assert_eq!(text.parse::<Price>().ok().map(|price| price.cost_micros(joules)), expected, "{text}");
        };
        check("0.32", 3.6e6, Some(320_000));
        check(" 1 ", 1.8e6, Some(500_000));
        check("0", 1e9, Some(0));
        check("0.1", 0.0, Some(0));
        for nonsense in ["", "-0.3", "0,32", "NaN", "1e99", "0.32 EUR"] {
            check(nonsense, 1.0, None);
        }
    }
}

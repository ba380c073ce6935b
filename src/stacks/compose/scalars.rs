//! The small languages of the values: durations, sizes, and what may be written in two ways.

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// Arguments: a list, or a line that is split as a shell would.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Argv(pub Vec<String>);

/// A list, or one string for a list of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OneOrMany(pub Vec<String>);

/// A list of names, or a mapping whose keys they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names<T>(pub BTreeMap<String, Option<T>>);

/// `NAME=VALUE` in a list, or a mapping. A name without a value has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs(pub BTreeMap<String, Option<String>>);

/// A time such as `10s` or `1m30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duration(pub std::time::Duration);

/// Bytes: a number, or one with a unit such as `64m` or `2gb`, each 1024 times the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl<'de> Deserialize<'de> for Argv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Line;
        impl<'de> Visitor<'de> for Line {
            type Value = Argv;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command: a string or a list of strings")
            }
            fn visit_str<E: de::Error>(self, line: &str) -> Result<Argv, E> {
                split(line).map(Argv).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Argv, A::Error> {
                strings(list).map(Argv)
            }
        }
        deserializer.deserialize_any(Line)
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: de::Error>(self, one: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![one.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<OneOrMany, A::Error> {
                strings(list).map(OneOrMany)
            }
        }
        deserializer.deserialize_any(List)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Names<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Names<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of names or a mapping by name")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Names<T>, A::Error> {
                Ok(Names(strings(list)?.into_iter().map(|name| (name, None)).collect()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names<T>, A::Error> {
                let mut names = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    names.insert(name, value);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_any(List(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of NAME=VALUE or a mapping")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Pairs, A::Error> {
                let pairs = strings(list)?.into_iter().map(|pair| match pair.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (pair, None),
                });
                Ok(Pairs(pairs.collect()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = BTreeMap::new();
                // As text: numbers and booleans stay as they are written.
                while let Some((name, value)) = map.next_entry()? {
                    pairs.insert(name, value);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_any(List)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        duration(&text).map(Duration).ok_or_else(|| {
            de::Error::custom(format!("{text:?} is not a time; write hours, minutes and seconds as in 1m30s or 500ms"))
        })
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        size(&text)
            .map(Size)
            .ok_or_else(|| de::Error::custom(format!("{text:?} is not a size; write bytes, or 64k, 512m, 2g")))
    }
}

fn strings<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Vec<String>, A::Error> {
    let mut strings = Vec::new();
    while let Some(string) = list.next_element()? {
        strings.push(string);
    }
    Ok(strings)
}

fn duration(text: &str) -> Option<std::time::Duration> {
    const UNITS: [(&str, f64); 5] = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let mut rest = text.trim();
    if rest == "0" {
        return Some(std::time::Duration::ZERO);
    }
    let mut seconds = None;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..end])?;
        rest = &rest[end..];
        seconds = Some(seconds.unwrap_or(0.0) + number * unit);
    }
    std::time::Duration::try_from_secs_f64(seconds?).ok()
}

fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        "t" | "tb" => 40,
        _ => return None,
    };
    if number.contains('.') {
        let bytes = number.parse::<f64>().ok()? * f64::from(1 << (shift / 2)) * f64::from(1 << (shift - shift / 2));
        (bytes < u64::MAX as f64).then_some(bytes as u64)
    } else {
        number.parse::<u64>().ok()?.checked_mul(1 << shift)
    }
}

/// Splits a line into words: quotes group, a backslash takes the next character as it is, except in single quotes.
fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = rest.next().ok_or_else(|| format!("the command ends in a backslash: {line}"))?;
                let word = word.get_or_insert_default();
                if quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`') {
                    word.push('\\');
                }
                word.push(next);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("a quote is not closed in the command: {line}"));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times() {
        let check = |text, expected: Option<f64>| {
            assert_eq!(duration(text), expected.map(std::time::Duration::from_secs_f64), "{text}");
        };
        check("10s", Some(10.0));
        check("1m30s", Some(90.0));
        check("1.5h", Some(5400.0));
        check("500ms", Some(0.5));
        check("0", Some(0.0));
        for wrong in ["", "10", "s", "10 s", "-1s", "1d", "1..2s", "99999999999999999999h"] {
            check(wrong, None);
        }
    }

    #[test]
    fn sizes() {
        let check = |text, expected| assert_eq!(size(text), expected, "{text}");
        check("1024", Some(1024));
        check("64k", Some(64 << 10));
        check("512M", Some(512 << 20));
        check("2gb", Some(2 << 30));
        check("1.5g", Some(3 << 29));
        for wrong in ["", "g", "-1", "2 potatoes", "99999999999999999999", "18014398509481984k", "1e9"] {
            check(wrong, None);
        }
    }

    #[test]
    fn lines_are_split_like_a_shell_does() {
        let check = |line, expected: &[&str]| assert_eq!(split(line).unwrap(), expected, "{line}");
        check("", &[]);
        check("  a  b ", &["a", "b"]);
        check(r#"sh -c "echo \"it's\" \n" ''"#, &["sh", "-c", r#"echo "it's" \n"#, ""]);
        check(r"a\ b 'c\d'e", &["a b", r"c\de"]);
        assert!(split("'a").is_err() && split("a\\").is_err());
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(words in prop::collection::vec("[^']*", 0..5)) {
            let line = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(split(&line).unwrap(), words);
        }

        #[test]
        fn no_text_is_too_strange(text in ".*") {
            let _ = (duration(&text), size(&text), split(&text));
        }
    }
}

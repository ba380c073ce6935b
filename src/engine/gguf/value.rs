use super::Error;
use super::cursor::Cursor;
use super::metadata::Array;
use std::io::{Read, Seek};

/// The types of metadata, by their ids in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

use Type::*;

impl Type {
    /// The type with this id in the file.
    pub fn from_id(id: u32) -> Option<Type> {
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(id as usize).copied()
    }

    /// The bytes of a value, or `None` where that differs from value to value.
    pub fn bytes(self) -> Option<u64> {
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }

    /// Whether its values are whole numbers; booleans are.
    pub fn is_integer(self) -> bool {
        !matches!(self, F32 | F64 | String | Array)
    }
}

/// A value in the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number that is not negative, of any width.
    Unsigned(u64),
    /// A number of any signed type.
    Signed(i64),
    /// A number of either floating-point type.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// Text; in what is no UTF-8, each byte beyond ASCII became a question mark.
    String(std::string::String),
    /// Many values of one type.
    Array(Array),
}

impl Value {
    pub(super) fn read<R: Read + Seek>(
        cursor: &mut Cursor<R>,
        of: Type,
        field: &impl Fn() -> std::string::String,
    ) -> Result<Value, Error> {
        let Some(len) = of.bytes() else {
            // In place of what is no UTF-8 one byte each, so that no text grows beyond what was counted for it.
            let text = std::string::String::from_utf8(cursor.string(field)?).unwrap_or_else(|error| {
                let ascii = |&byte: &u8| if byte.is_ascii() { char::from(byte) } else { '?' };
                error.as_bytes().iter().map(ascii).collect()
            });
            return Ok(Value::String(text));
        };
        let bytes = cursor.bytes(len, field)?;
        Ok(match of {
            F32 | F64 => Value::Float(match <[u8; 8]>::try_from(bytes.as_slice()) {
                Ok(double) => f64::from_le_bytes(double),
                Err(_) => float(of, &bytes).into(),
            }),
            Bool => Value::Bool(bytes != [0]),
            I8 | I16 | I32 | I64 => Value::Signed(integer(of, &bytes)),
            _ => Value::Unsigned(unsigned(&bytes)),
        })
    }

    /// What it is, for a message: `text`, `the number 3`.
    pub(super) fn describe(&self) -> std::string::String {
        match self {
            Value::Unsigned(number) => format!("the number {number}"),
            Value::Signed(number) => format!("the number {number}"),
            Value::Float(number) => format!("the number {number:?}"),
            Value::Bool(value) => format!("{value}"),
            Value::String(_) => "text".to_owned(),
            Value::Array(array) => format!("an array of {} {:?}", array.len, array.of),
        }
    }
}

/// What can be asked of a [`Value`].
pub trait FromValue<'a>: Sized {
    /// What is expected, for a message.
    const EXPECTED: &'static str;
    /// The value, or `None` where it is of another type or does not fit.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! whole_numbers {
    ($($type:ty)*) => {$(
        impl FromValue<'_> for $type {
            const EXPECTED: &'static str = concat!("a whole number that fits ", stringify!($type));
            fn from_value(value: &Value) -> Option<Self> {
                match *value {
                    Value::Unsigned(number) => number.try_into().ok(),
                    Value::Signed(number) => number.try_into().ok(),
                    _ => None,
                }
            }
        }
    )*};
}

whole_numbers!(u32 u64 usize i64);

impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a finite number";
    fn from_value(value: &Value) -> Option<Self> {
        match *value {
            Value::Float(number) => Some(number as f32).filter(|number| number.is_finite()),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_value(value: &Value) -> Option<Self> {
        match *value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "text";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

/// The little-endian number in `bytes`, of which there are at most eight.
fn unsigned(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The number of an integer type in `bytes`; the largest where it exceeds an `i64`.
pub(super) fn integer(of: Type, bytes: &[u8]) -> i64 {
    let number = unsigned(bytes);
    match of {
        I8 => number as i8 as i64,
        I16 => number as i16 as i64,
        I32 => number as i32 as i64,
        I64 => number as i64,
        _ => number.try_into().unwrap_or(i64::MAX),
    }
}

/// The number of a floating-point type in `bytes`.
pub(super) fn float(of: Type, bytes: &[u8]) -> f32 {
    match of {
        F64 => f64::from_bits(unsigned(bytes)) as f32,
        _ => f32::from_bits(unsigned(bytes) as u32),
    }
}

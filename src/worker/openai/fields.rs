use super::Error;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// What is wrong with JSON, and where.
pub(super) fn describe(error: &serde_json::Error) -> String {
    // serde_json has no kind of its own for it.
    let message = error.to_string();
    message.replace("recursion limit exceeded", "it is nested deeper than 128 levels")
}

/// The fields of a request. A field that is missing or null is `None`; one of another type than asked for is an error
/// that names it. Fields that nobody asks for pass, as clients send many.
#[derive(Debug, Clone)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, Error> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(other) => Err(Error::bad_request(format!("the body must be a JSON object, not {}", kind(&other)))),
            Err(error) => {
                Err(Error::bad_request(format!("the body is not JSON: {}", describe(&error))).code("invalid_json"))
            }
        }
    }

    /// A field of any type.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A text.
    ///
    /// # Errors
    /// It is something else.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        self.typed(name, "a string", Value::as_str)
    }

    /// A boolean.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        self.typed(name, "a boolean", Value::as_bool)
    }

    /// A list.
    ///
    /// # Errors
    /// It is something else.
    pub fn list(&self, name: &str) -> Result<Option<&Vec<Value>>, Error> {
        self.typed(name, "an array", Value::as_array)
    }

    /// An object.
    ///
    /// # Errors
    /// It is something else.
    pub fn object(&self, name: &str) -> Result<Option<&Map<String, Value>>, Error> {
        self.typed(name, "an object", Value::as_object)
    }

    /// A number within `range`.
    ///
    /// # Errors
    /// It is something else, or out of range.
    pub fn number(&self, name: &str, range: RangeInclusive<f32>) -> Result<Option<f32>, Error> {
        // Ranges are far within f32; what overflows it becomes infinite and is out of any.
        let number = self.typed(name, "a number", Value::as_f64)?.map(|number| number as f32);
        self.within(name, number, &range)
    }

    /// A whole number within `range`.
    ///
    /// # Errors
    /// It is something else, or out of range.
    pub fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Error> {
        // Some clients write 16.0; beyond i64 is beyond any range, so that it saturates.
        let whole = |value: &Value| match value.as_f64() {
            _ if value.is_i64() => value.as_i64(),
            Some(number) if number.fract() == 0.0 => Some(number as i64),
            _ => None,
        };
        let integer = self.typed(name, "an integer", whole)?;
        self.within(name, integer, &range)
    }

    fn within<T: PartialOrd + std::fmt::Display>(
        &self,
        name: &str,
        number: Option<T>,
        range: &RangeInclusive<T>,
    ) -> Result<Option<T>, Error> {
        match number {
            Some(number) if !range.contains(&number) => {
                let (from, to) = (range.start(), range.end());
                Err(Error::invalid(name, format!("{name} must be from {from} to {to}, but is {number}")))
            }
            number => Ok(number),
        }
    }

    fn typed<'a, T>(
        &'a self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::invalid(name, format!("{name} must be {expected}, not {}", kind(value)))),
        }
    }
}

/// What a value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_must_be_an_object() {
        let check = |body: &str, message: &str| {
            let error = Fields::parse(body.as_bytes()).unwrap_err();
            assert!(error.message.starts_with(message), "{body}: {error}");
        };
        check("", "the body is not JSON: ");
        check("{\"a\":", "the body is not JSON: ");
        check("[1]", "the body must be a JSON object, not an array");
        check(&"[".repeat(100_000), "the body is not JSON: it is nested deeper");
    }

    #[test]
    fn numbers_have_a_type_and_a_range() {
        let check = |value: &str, expected: Result<Option<i64>, &str>| {
            let fields = Fields::parse(format!("{{\"n\":{value}}}").as_bytes()).unwrap();
            let read = fields.integer("n", 1..=8);
            assert_eq!(
                read.as_ref().map_err(|error| error.message.as_str()),
                expected.as_ref().map_err(|error| *error)
            );
            assert!(read.is_ok_and(|_| true) || fields.integer("n", 1..=8).unwrap_err().param.as_deref() == Some("n"));
        };
        check("null", Ok(None));
        check("8", Ok(Some(8)));
        check("8.0", Ok(Some(8)));
        check("9", Err("n must be from 1 to 8, but is 9"));
        check("-1", Err("n must be from 1 to 8, but is -1"));
        check("18446744073709551615", Err("n must be from 1 to 8, but is 9223372036854775807"));
        check("1.5", Err("n must be an integer, not a number"));
        check("\"1\"", Err("n must be an integer, not a string"));

        let fields = Fields::parse(b"{\"t\": 1e300, \"u\": 2}").unwrap();
        assert_eq!(fields.number("t", 0.0..=2.0).unwrap_err().message, "t must be from 0 to 2, but is inf");
        assert_eq!(fields.number("u", 0.0..=2.0).unwrap(), Some(2.0));
    }
}

//! What we read of a request, and the little that we add.

use crate::worker::openai::{Error, Fields};
use axum::body::Bytes;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A request for an answer.
#[derive(Debug)]
pub(super) struct Ask {
    /// The model, where one is named.
    pub model: Option<String>,
    /// What the runtime is sent.
    pub body: Bytes,
    /// Whether the runtime is asked for its usage at the end of a stream although the caller did not ask: then that
    /// event is ours, and the caller does not get it.
    pub usage_is_ours: bool,
}

impl Ask {
    /// Reads a body.
    ///
    /// # Errors
    /// It is not a JSON object, or what we read of it has another type than it should.
    pub(super) fn read(body: Bytes) -> Result<Self, Error> {
        let fields = Fields::parse(&body)?;
        let model = fields.text("model")?.map(str::to_string);
        let streams = fields.flag("stream")?.unwrap_or_default();
        let wants_usage = match fields.object("stream_options")? {
            Some(options) => options.get("include_usage").and_then(|wants| wants.as_bool()).unwrap_or_default(),
            None => false,
        };
        let usage_is_ours = streams && !wants_usage;
        Ok(Self { model, body: if usage_is_ours { with_usage(&body)? } else { body }, usage_is_ours })
    }
}

/// The same request, asking for usage too. What stands in other fields keeps its bytes.
fn with_usage(body: &[u8]) -> Result<Bytes, Error> {
    let invalid = |error: serde_json::Error| Error::bad_request(format!("the body is not JSON: {error}"));
    let raw = |text: &str| RawValue::from_string(text.to_string()).map_err(invalid);
    let mut fields: BTreeMap<Cow<str>, Cow<RawValue>> = serde_json::from_slice(body).map_err(invalid)?;
    let mut options: BTreeMap<String, Box<RawValue>> = match fields.get("stream_options") {
        Some(options) if options.get() != "null" => serde_json::from_str(options.get()).map_err(invalid)?,
        _ => BTreeMap::new(),
    };
    options.insert("include_usage".into(), raw("true")?);
    let options = serde_json::value::to_raw_value(&options).map_err(invalid)?;
    fields.insert("stream_options".into(), Cow::Owned(options));
    serde_json::to_vec(&fields).map(Bytes::from).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_streams_is_asked_for_usage() {
        let check = |body: &'static str, model: Option<&str>, sent: &str| {
            let ask = Ask::read(Bytes::from_static(body.as_bytes())).unwrap();
            assert_eq!((ask.model.as_deref(), &*ask.body), (model, sent.as_bytes()));
            assert_eq!(ask.usage_is_ours, body != sent);
        };
        let same = |body: &'static str, model: Option<&str>| check(body, model, body);
        same(r#"{ "messages" : [] }"#, None);
        same(r#"{"model":null,"stream":false}"#, None);
        same(r#"{"model":"a","stream":true,"stream_options":{"include_usage":true}}"#, Some("a"));
        // Other fields keep their bytes, also where a double would not hold them.
        check(
            r#"{"stream":true,"x":{"b":1.0,  "a":"ü"},"n":1.00000000000000000001}"#,
            None,
            r#"{"n":1.00000000000000000001,"stream":true,"stream_options":{"include_usage":true},"x":{"b":1.0,  "a":"ü"}}"#,
        );
        check(
            r#"{"stream":true,"stream_options":{"other":[1]}}"#,
            None,
            r#"{"stream":true,"stream_options":{"include_usage":true,"other":[1]}}"#,
        );
        check(
            r#"{"stream":true,"stream_options":null}"#,
            None,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |body: &'static [u8], param: Option<&str>| {
            let error = Ask::read(Bytes::from_static(body)).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, param), "{error}");
        };
        check(b"", None);
        check(b"{", None);
        check(b"[]", None);
        check(b"\xff", None);
        check(br#"{"model":5}"#, Some("model"));
        check(br#"{"stream":"yes"}"#, Some("stream"));
        check(br#"{"stream":true,"stream_options":5}"#, Some("stream_options"));
    }
}

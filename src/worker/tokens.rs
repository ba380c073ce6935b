//! `POST /tokenize` and `POST /detokenize`, in the words of llama.cpp (`content`) and of vLLM (`prompt`).

use super::face::{Body, Face, fields};
use super::openai::completion::tokens;
use super::openai::{Error, chat};
use crate::engine::tokenizer::Special;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use std::sync::Arc;

/// Tokens of a text, or of a conversation in `messages`.
pub(super) async fn tokenize(State(face): State<Arc<Face>>, body: Body) -> Result<Json<Value>, Error> {
    let fields = fields(body)?;
    let tokens = face
        .blocking(move |face| {
            if fields.get("messages").is_some() {
                return face.chat_prompt(&chat::Request::read(&fields)?);
            }
            let text = match fields.text("content")? {
                Some(text) => text,
                None => fields.text("prompt")?.ok_or_else(|| Error::invalid("content", "content is missing"))?,
            };
            let special = if fields.flag("parse_special")?.unwrap_or(true) { Special::Parse } else { Special::Plain };
            let add = match fields.flag("add_special")? {
                Some(add) => add,
                None => fields.flag("add_special_tokens")?.unwrap_or(false),
            };
            Ok(face.tokenizer.encode(text, special, add))
        })
        .await?;
    Ok(Json(json!({"tokens": tokens, "count": tokens.len(), "max_model_len": face.context()})))
}

/// The text of `tokens`.
pub(super) async fn detokenize(State(face): State<Arc<Face>>, body: Body) -> Result<Json<Value>, Error> {
    let fields = fields(body)?;
    let list = fields.list("tokens")?.ok_or_else(|| Error::invalid("tokens", "tokens is missing"))?;
    let tokens =
        tokens(list).ok_or_else(|| Error::invalid("tokens", "tokens must be an array of numbers of tokens"))?;
    face.check_tokens("tokens", &tokens)?;
    let text = face.tokenizer.decode(&tokens);
    Ok(Json(json!({"content": text, "prompt": text})))
}

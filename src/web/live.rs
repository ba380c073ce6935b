//! Live parts of pages over server-sent events. A page is told only what changed since it was last told; htmx closes the
//! stream while its tab is hidden, and gets everything at once when it is back.

use crate::app::App;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often a page looks for changes.
pub const TICK: Duration = Duration::from_secs(1);

/// One thing to tell a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// The event's name; none replaces the content of the element that listens.
    pub event: Option<&'static str>,
    /// HTML, or what the event's listener expects.
    pub data: String,
}

impl Push {
    /// New content for the listening element.
    pub fn content(html: String) -> Self {
        Self { event: None, data: html }
    }

    fn into_event(self) -> Event {
        // A carriage return would end a line of the protocol.
        let event = Event::default().data(self.data.replace('\r', ""));
        match self.event {
            Some(name) => event.event(name),
            None => event,
        }
    }
}

/// Streams what `look` sees to the owner, whom `headers` prove. It ends when the session does.
pub fn to_owner<F, Fut>(app: App, headers: HeaderMap, look: F) -> Response
where
    F: Fn(App) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Vec<Push>> + Send,
{
    stream(app.closing.clone(), move || {
        let (app, headers, look) = (app.clone(), headers.clone(), look.clone());
        async move {
            app.sessions.check(&headers).await?;
            Some(look(app).await)
        }
    })
}

/// Streams what `look` sees, each name only when its data changed, until the browser leaves, the daemon closes or there
/// is nothing to see any more.
fn stream<F, Fut>(closing: CancellationToken, look: F) -> Response
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = Option<Vec<Push>>> + Send,
{
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = (ticks, look, HashMap::new());
    let batches = stream::unfold(state, move |(mut ticks, mut look, mut told)| {
        let closing = closing.clone();
        async move {
            tokio::select! {
                () = closing.cancelled() => return None,
                _ = ticks.tick() => {}
            }
            let fresh = changed(&mut told, look().await?);
            Some((stream::iter(fresh), (ticks, look, told)))
        }
    });
    let events = batches.flatten().map(|push| Ok::<_, Infallible>(push.into_event()));
    // Proxies such as nginx would otherwise collect the stream before passing it on.
    ([("x-accel-buffering", "no")], Sse::new(events).keep_alive(KeepAlive::default())).into_response()
}

fn changed(told: &mut HashMap<Option<&'static str>, String>, pushes: Vec<Push>) -> Vec<Push> {
    pushes
        .into_iter()
        .filter(|push| told.insert(push.event, push.data.clone()).is_none_or(|before| before != push.data))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_is_told() {
        let mut told = HashMap::new();
        let content = |text: &str| Push::content(text.into());
        let sample = |text: &str| Push { event: Some("sample"), data: text.into() };
        let mut check = |pushes: &[Push], expected: &[Push]| {
            assert_eq!(changed(&mut told, pushes.to_vec()), expected);
        };
        check(&[content("a"), sample("1")], &[content("a"), sample("1")]);
        check(&[content("a"), sample("2")], &[sample("2")]);
        check(&[content("a"), sample("2")], &[]);
        check(&[content("b"), sample("2")], &[content("b")]);
    }

    #[tokio::test]
    async fn the_stream_ends_with_the_daemon() {
        let closing = CancellationToken::new();
        let response = stream(closing.clone(), || async { Some(vec![Push::content("hello\r\nworld".into())]) });
        let mut body = response.into_body().into_data_stream();
        let first = body.next().await.expect("an event").expect("bytes");
        assert_eq!(first, "data: hello\ndata: world\n\n");
        closing.cancel();
        assert!(body.next().await.is_none());
    }
}

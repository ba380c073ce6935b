//! Chat. The conversation lives in the browser and is answered by the gateway; here is the page around it, and the
//! rendering of Markdown.

use super::{Shell, Tab, html};
use crate::app::App;
use crate::models::CatalogueEntry;
use crate::web::markdown;
use crate::web::session::Owner;
use crate::web::words;
use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::response::{Html, Response};
use axum::routing::{get, post};

pub(super) fn router() -> Router<App> {
    Router::new().route("/chat", get(page)).route("/chat/render", post(render))
}

#[derive(Template)]
#[template(path = "chat.html")]
struct Page {
    shell: Shell,
    models: Vec<Choice>,
    default: Offer,
}

/// A model that can be asked.
#[derive(Debug, PartialEq)]
struct Choice {
    name: String,
    chosen: bool,
}

/// The model that is offered where there is none.
#[derive(Debug, PartialEq)]
struct Offer {
    name: String,
    title: String,
    size: Option<String>,
}

/// The models of a menu: `default` is chosen, or what is in memory already, or the first.
fn choices(names: &[&str], default: &str, loaded: &[&str]) -> Vec<Choice> {
    let is = |wanted: &str| names.iter().position(|name| *name == wanted);
    let chosen = is(default).or_else(|| loaded.iter().find_map(|name| is(name))).unwrap_or_default();
    names.iter().enumerate().map(|(at, name)| Choice { name: (*name).into(), chosen: at == chosen }).collect()
}

fn offer(default: &str, catalogue: &[CatalogueEntry]) -> Offer {
    let entry = catalogue.iter().find(|entry| entry.names().any(|name| name == default));
    Offer {
        name: default.into(),
        title: entry.map_or(default, |entry| &entry.title).into(),
        size: entry.and_then(|entry| entry.bytes).map(words::size),
    }
}

async fn page(State(app): State<App>, owner: Owner) -> Response {
    let models = app.models.list();
    // What embeds does not answer.
    let names: Vec<&str> = models.iter().filter(|spec| !spec.embeds).flat_map(|spec| spec.names()).collect();
    let placement = app.placement.status().borrow().clone();
    let loaded: Vec<&str> = placement.tenants.iter().map(|tenant| tenant.model.as_str()).collect();
    // What requests call the default may be an alias.
    let resolved = app.models.resolve(app.models.default());
    let default = resolved.as_ref().map_or(app.models.default(), |spec| &spec.name);
    html(&Page {
        shell: Shell { csrf: owner.session.csrf, tab: Tab::Chat },
        models: choices(&names, default, &loaded),
        default: offer(default, app.models.catalogue()),
    })
}

async fn render(_: Owner, text: String) -> Html<String> {
    Html(markdown::render(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_model_is_chosen() {
        let check = |names: &[&str], default: &str, loaded: &[&str], expected: Option<&str>| {
            let choices = choices(names, default, loaded);
            let chosen: Vec<&str> = choices.iter().filter(|c| c.chosen).map(|c| c.name.as_str()).collect();
            assert_eq!(chosen, Vec::from_iter(expected));
        };
        check(&[], "a", &[], None);
        check(&["a", "b"], "b", &["a"], Some("b"));
        check(&["a", "b"], "c", &["b"], Some("b"));
        check(&["a", "b"], "c", &["c"], Some("a"));
    }

    #[test]
    fn an_unknown_default_is_offered_by_its_name() {
        assert_eq!(offer("mine", &[]), Offer { name: "mine".into(), title: "mine".into(), size: None });
    }
}

//! A model's Markdown as HTML. A model may have read anything, so its answer is treated as a stranger's: nothing in it
//! runs, loads or looks like ours.

use pulldown_cmark::{Alignment, CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

/// Renders Markdown. Raw HTML becomes text; links go to the web or to mail and open apart; images become links, since
/// fetching one would tell its server what was talked about.
pub fn render(markdown: &str) -> String {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut links = Vec::new();
    let events = Parser::new_ext(markdown, options).map(|event| inert(event, &mut links));
    let mut out = String::with_capacity(markdown.len() * 3 / 2);
    html::push_html(&mut out, events);
    out
}

/// `links` remembers for every open link whether its start was written.
fn inert<'a>(event: Event<'a>, links: &mut Vec<bool>) -> Event<'a> {
    match event {
        Event::Html(text) | Event::InlineHtml(text) => Event::Text(text),
        Event::Start(Tag::HtmlBlock) => Event::Start(Tag::Paragraph),
        Event::End(TagEnd::HtmlBlock) => Event::End(TagEnd::Paragraph),
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
            let allowed = goes_out(&dest_url);
            links.push(allowed);
            if allowed {
                let href = escape(&dest_url);
                html_event(format!("<a href=\"{href}\" target=\"_blank\" rel=\"noopener noreferrer nofollow\">"))
            } else {
                html_event(String::new())
            }
        }
        Event::End(TagEnd::Link | TagEnd::Image) => {
            html_event(if links.pop() == Some(true) { "</a>".into() } else { String::new() })
        }
        Event::Start(Tag::CodeBlock(kind)) => {
            let language = match &kind {
                CodeBlockKind::Fenced(info) => info.split([' ', ',']).next().unwrap_or_default(),
                CodeBlockKind::Indented => "",
            };
            let language = escape(if language.is_empty() { "text" } else { language });
            html_event(format!(
                "<div class=\"code\"><div class=\"code-head\"><span>{language}</span><button type=\"button\" \
                 class=\"quiet\" data-copy-code>Copy</button></div><pre tabindex=\"0\"><code>"
            ))
        }
        Event::End(TagEnd::CodeBlock) => html_event("</code></pre></div>\n".into()),
        // The page has its own first and second level.
        Event::Start(Tag::Heading { level, .. }) => {
            Event::Start(Tag::Heading { level: deeper(level), id: None, classes: Vec::new(), attrs: Vec::new() })
        }
        Event::End(TagEnd::Heading(level)) => Event::End(TagEnd::Heading(deeper(level))),
        // Alignment would be an inline style, which the Content-Security-Policy refuses.
        Event::Start(Tag::Table(columns)) => Event::Start(Tag::Table(vec![Alignment::None; columns.len()])),
        other => other,
    }
}

fn deeper(level: HeadingLevel) -> HeadingLevel {
    match level {
        HeadingLevel::H1 => HeadingLevel::H3,
        HeadingLevel::H2 => HeadingLevel::H4,
        HeadingLevel::H3 => HeadingLevel::H5,
        _ => HeadingLevel::H6,
    }
}

fn html_event<'a>(html: String) -> Event<'a> {
    Event::Html(html.into())
}

/// Whether a link's target is one of the schemes that a browser only navigates to.
fn goes_out(url: &str) -> bool {
    ["http://", "https://", "mailto:"]
        .iter()
        .any(|scheme| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_markdown() {
        let check = |markdown: &str, expected: &str| assert_eq!(render(markdown).trim_end(), expected, "{markdown}");
        check("Hi *there*", "<p>Hi <em>there</em></p>");
        check("# Title", "<h3>Title</h3>");
        check("~~no~~", "<p><del>no</del></p>");
        check(
            "```rust\nlet x = a < b && c;\n```",
            "<div class=\"code\"><div class=\"code-head\"><span>rust</span><button type=\"button\" class=\"quiet\" \
             data-copy-code>Copy</button></div><pre tabindex=\"0\"><code>let x = a &lt; b &amp;&amp; c;\n</code></pre></div>",
        );
        check(
            "[docs](https://example.org/?a=1&b=2)",
            "<p><a href=\"https://example.org/?a=1&amp;b=2\" target=\"_blank\" rel=\"noopener noreferrer nofollow\">docs</a></p>",
        );
        check(
            "|a|\n|-:|\n|1|",
            "<table><thead><tr><th>a</th></tr></thead><tbody>\n<tr><td>1</td></tr>\n</tbody></table>",
        );
    }

    #[test]
    fn hostile_markdown_is_inert() {
        let check = |markdown: &str, expected: &str| assert_eq!(render(markdown).trim_end(), expected, "{markdown}");
        check("<script>alert(1)</script>", "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>");
        check("a <img src=x onerror=alert(1)>", "<p>a &lt;img src=x onerror=alert(1)&gt;</p>");
        check("[x](javascript:alert(1))", "<p>x</p>");
        check("[x](JaVaScRiPt:alert(1))", "<p>x</p>");
        check("[x](<java\tscript:alert(1)>)", "<p>x</p>");
        check("[x](data:text/html,<script>alert(1)</script>)", "<p>x</p>");
        check("[x](//evil.example)", "<p>x</p>");
        check("<javascript:alert(1)>", "<p>javascript:alert(1)</p>");
        check(
            "![cat](https://evil.example/?secret)",
            "<p><a href=\"https://evil.example/?secret\" target=\"_blank\" rel=\"noopener noreferrer nofollow\">cat</a></p>",
        );
        check(
            "[x](https://a/\"onmouseover=\"alert(1))",
            "<p><a href=\"https://a/&quot;onmouseover=&quot;alert(1)\" target=\"_blank\" rel=\"noopener noreferrer nofollow\">x</a></p>",
        );
        assert!(render("```\"><script>\nx\n```").contains("<span>&quot;&gt;&lt;script&gt;</span>"));
    }

    proptest! {
        /// Whatever a model writes, every tag and attribute in the result is one that we chose.
        #[test]
        fn only_our_tags(markdown in "([a-z<>\"'/=!\\[\\]():&#`*|\\- \n]|<script|<img |onerror=|javascript:|<!--|]]>){0,80}") {
            let html = render(&markdown);
            const TAGS: [&str; 29] = [
                "p", "em", "strong", "del", "a", "code", "pre", "div", "span", "button", "ul", "ol", "li", "h3", "h4", "h5",
                "h6", "hr", "br", "blockquote", "table", "thead", "tbody", "tr", "th", "td", "input", "dl", "dt",
            ];
            for tag in html.split('<').skip(1) {
                let name: String = tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
                prop_assert!(TAGS.contains(&name.as_str()), "<{tag} in {html}");
                let inside = tag.split('>').next().unwrap_or_default();
                prop_assert!(!inside.split('"').step_by(2).any(|part| part.contains(" on")), "<{tag} in {html}");
            }
        }
    }
}

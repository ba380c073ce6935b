//! Prometheus' text format, version 0.0.4.

use std::fmt::Write;

/// What the format is called in `content-type`.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family of figures does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It rises, and begins anew with the daemon or the driver.
    Counter,
    /// It is as it is now.
    Gauge,
}

/// A text that grows by families.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

/// Names and values that tell the figures of a family apart.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Exposition {
    /// Adds a family. One without figures is left out.
    pub(super) fn family<'a>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        figures: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) {
        let mut figures = figures.into_iter().peekable();
        if figures.peek().is_none() {
            return;
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let text = &mut self.0;
        // Writing to a text cannot fail.
        let _ = writeln!(text, "# HELP {name} {}", help.replace('\\', "\\\\").replace('\n', "\\n"));
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for (labels, value) in figures {
            text.push_str(name);
            for (at, (label, value)) in labels.iter().enumerate() {
                text.push(if at == 0 { '{' } else { ',' });
                let _ = write!(text, "{label}=\"{}\"", escaped(value));
            }
            if !labels.is_empty() {
                text.push('}');
            }
            let _ = writeln!(text, " {value}");
        }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_help_type_and_figures() {
        let mut exposition = Exposition::default();
        exposition.family("up", Kind::Gauge, "Whether it is.\nReally.", [(vec![], 1.0)]);
        exposition.family("nothing", Kind::Gauge, "Nothing.", []);
        let figures =
            [(vec![("model", "a\"b\\c\nd"), ("kind", "x")], 0.5), (vec![("model", "e"), ("kind", "x")], 9.007e15)];
        exposition.family("tokens_total", Kind::Counter, "Tokens.", figures);
        let expected = "# HELP up Whether it is.\\nReally.\n# TYPE up gauge\nup 1\n# HELP tokens_total Tokens.\n\
                        # TYPE tokens_total counter\ntokens_total{model=\"a\\\"b\\\\c\\nd\",kind=\"x\"} 0.5\n\
                        tokens_total{model=\"e\",kind=\"x\"} 9007000000000000\n";
        assert_eq!(exposition.into_text(), expected);
    }
}

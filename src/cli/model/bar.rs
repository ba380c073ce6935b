use crate::models::{Phase, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// A pull on a terminal. Where there is none, nothing is drawn.
#[derive(Debug)]
pub(super) struct Bar {
    bar: ProgressBar,
    phase: Option<Phase>,
    paused: bool,
}

/// Speed and the time that is left change even while no byte comes.
const TICK: Duration = Duration::from_millis(200);

impl Bar {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::no_length();
        bar.enable_steady_tick(TICK);
        Self { bar, phase: None, paused: false }
    }

    /// Shows how far it is.
    pub(super) fn show(&mut self, progress: &Progress) {
        if std::mem::take(&mut self.paused) {
            self.phase = None;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(TICK);
        }
        if self.phase != Some(progress.phase) {
            self.phase = Some(progress.phase);
            let (message, template) = match progress.phase {
                Phase::Resolving => ("finding", "{msg} {spinner}"),
                Phase::Downloading if progress.total.is_none() => ("fetching", "{msg} {bytes} {bytes_per_sec}"),
                Phase::Downloading => ("fetching", "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}"),
                Phase::Verifying => ("verifying", "{msg} {spinner}"),
                Phase::Done | Phase::Failed => ("", ""),
            };
            self.bar.set_style(style(template));
            let what = progress.model.as_ref().unwrap_or(&progress.source);
            self.bar.set_message(format!("{message} {what}"));
            // Bytes that were there before do not count as speed.
            self.bar.set_position(progress.done);
            self.bar.reset_eta();
        }
        if let Some(total) = progress.total {
            self.bar.set_length(total);
        }
        self.bar.set_position(progress.done);
    }

    /// Leaves the terminal to a question, until the next step is shown.
    pub(super) fn pause(&mut self) {
        if !std::mem::replace(&mut self.paused, true) {
            self.bar.disable_steady_tick();
            // Drawn once more, as nothing.
            self.bar.set_style(style(""));
            self.bar.tick();
            self.bar.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    /// Takes it away.
    pub(super) fn clear(self) {
        self.bar.finish_and_clear();
    }
}

/// The templates are written here, and right.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

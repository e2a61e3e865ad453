//! Progress for people: a live line on a terminal, plain lines otherwise. Everything goes to stderr, so that stdout
//! carries only results.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Without a terminal, how often a long step says that it is alive.
const PLAIN_INTERVAL: Duration = Duration::from_secs(30);

/// Where progress goes.
pub struct Ui {
    live: bool,
}

impl Ui {
    /// Live lines when stderr is a terminal that can draw them.
    pub fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { live: std::io::stderr().is_terminal() && !dumb && std::env::var_os("CI").is_none() }
    }

    /// One line that stays.
    pub fn note(&self, line: impl AsRef<str>) {
        eprintln!("{}", line.as_ref());
    }

    /// Begins a step; it ends with [`Step::done`], or silently when dropped because of an error.
    pub fn step(&self, name: impl Into<String>) -> Step {
        let name = name.into();
        let bar = if self.live {
            let bar = ProgressBar::new_spinner();
            bar.set_draw_target(ProgressDrawTarget::stderr());
            // A template that does not parse would only cost us the looks.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(200));
            Some(bar)
        } else {
            eprintln!("==> {name}");
            None
        };
        Step { name, started: Instant::now(), said: Cell::new(Instant::now()), bar }
    }
}

/// A step in progress.
pub struct Step {
    name: String,
    started: Instant,
    said: Cell<Instant>,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Says what is being done right now, for example the file being compiled. Cheap; call it as often as you like.
    pub fn progress(&self, what: impl AsRef<str>) {
        let what = what.as_ref();
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        } else if self.said.get().elapsed() >= PLAIN_INTERVAL {
            self.said.set(Instant::now());
            eprintln!("    {}: {what} ({} elapsed)", self.name, duration(self.started.elapsed()));
        }
    }

    /// One line that stays, printed above a live line.
    pub fn note(&self, line: impl AsRef<str>) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{}", line.as_ref())),
            None => eprintln!("{}", line.as_ref()),
        }
    }

    /// Ends the step well. `result` may be empty.
    pub fn done(self, result: impl AsRef<str>) {
        let result = result.as_ref();
        let separator = if result.is_empty() { "" } else { ": " };
        let elapsed = duration(self.started.elapsed());
        match &self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("==> {}{separator}{result} ({elapsed})", self.name);
            }
            None => eprintln!("    {}{separator}{result} (done in {elapsed})", self.name),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// "7s", "4m05s", "1h02m".
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}

/// Says why we stop: the outermost description first, then what it was caused by.
pub fn report_error(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {}", cause.to_string().replace('\n', "\n  "));
    }
}

/// Gives back a cursor that a live line may have hidden.
pub fn restore_terminal() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K\x1b[?25h");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_naturally() {
        assert_eq!(duration(Duration::from_secs(7)), "7s");
        assert_eq!(duration(Duration::from_secs(245)), "4m05s");
        assert_eq!(duration(Duration::from_secs(3725)), "1h02m");
    }
}

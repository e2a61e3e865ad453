//! Progress for people: a live line on a terminal, plain lines otherwise. Everything goes to stderr, so that stdout
//! carries only results.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
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
        let started = Instant::now();
        let display = if self.live {
            let bar = ProgressBar::new_spinner();
            bar.set_draw_target(ProgressDrawTarget::stderr());
            // A template that does not parse would only cost us the looks.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(200));
            Display::Live(bar)
        } else {
            eprintln!("==> {name}");
            Display::Plain(Heartbeat::start(name.clone(), started))
        };
        Step { name, started, display }
    }
}

/// Prints whole lines on standard output, so that what several guests say at once does not mix within a line.
#[derive(Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes more output, and prints it up to its last line end.
    pub fn push(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let mut out = std::io::stdout().lock();
        out.write_all(&self.rest[..whole])?;
        self.rest.drain(..whole);
        out.flush()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.rest.is_empty() {
            // Nobody is left to tell.
            let _ = self.push(b"\n");
        }
    }
}

/// A step in progress.
pub struct Step {
    name: String,
    started: Instant,
    display: Display,
}

enum Display {
    Live(ProgressBar),
    Plain(Heartbeat),
}

impl Step {
    /// Says what is being done right now, for example the file being compiled. Cheap; call it as often as you like.
    pub fn progress(&self, what: impl AsRef<str>) {
        let what = what.as_ref().to_owned();
        match &self.display {
            Display::Live(bar) => bar.set_message(what),
            Display::Plain(heartbeat) => {
                *heartbeat.what.lock().unwrap_or_else(PoisonError::into_inner) = what;
            }
        }
    }

    /// One line that stays, above the live line.
    pub fn note(&self, line: impl AsRef<str>) {
        match &self.display {
            Display::Live(bar) => bar.suspend(|| eprintln!("{}", line.as_ref())),
            Display::Plain(_) => eprintln!("{}", line.as_ref()),
        }
    }

    /// Ends the step well. `result` may be empty.
    pub fn done(self, result: impl AsRef<str>) {
        let result = result.as_ref();
        let separator = if result.is_empty() { "" } else { ": " };
        let elapsed = duration(self.started.elapsed());
        match &self.display {
            Display::Live(bar) => {
                bar.finish_and_clear();
                eprintln!("==> {}{separator}{result} ({elapsed})", self.name);
            }
            Display::Plain(_) => eprintln!("    {}{separator}{result} (done in {elapsed})", self.name),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Display::Live(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

/// Without a terminal: a line now and then, also when the step itself has nothing to say for minutes.
struct Heartbeat {
    what: Arc<Mutex<String>>,
    /// The thread ends when this goes away.
    _stop: mpsc::Sender<()>,
}

impl Heartbeat {
    fn start(name: String, started: Instant) -> Self {
        let what = Arc::new(Mutex::new(String::new()));
        let (stop, stopped) = mpsc::channel();
        let shared = Arc::clone(&what);
        std::thread::spawn(move || {
            while stopped.recv_timeout(PLAIN_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                let what = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let separator = if what.is_empty() { "" } else { ": " };
                eprintln!("    {name}{separator}{what} ({} elapsed)", duration(started.elapsed()));
            }
        });
        Self { what, _stop: stop }
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

//! Starts `/bin/echo` twice from one template and prints how it ended.

use std::process::ExitCode;

use spawn_template::{Command, Error, SignalSet, Template};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_unsupported() => {
            eprintln!("spawn: this kernel has no spawn templates; it needs the project's patches and module");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("spawn: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let echo = Template::open("/bin/echo")?;

    // The Rust runtime ignores SIGPIPE, and the child would inherit that.
    let mut command = Command::new(&echo);
    command.args(["hello", "from", "a", "template"]).sigdefault(SignalSet::of([libc::SIGPIPE])?);
    for _ in 0..2 {
        let mut child = command.spawn()?;
        let id = child.id();
        println!("process {id} ended: {}", child.wait()?);
    }

    let stats = echo.stats()?;
    println!("{}: {} started, {} failed", stats.path.display(), stats.spawns, stats.failures);
    Ok(())
}

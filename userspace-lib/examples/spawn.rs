//! Starts `/bin/echo` twice from one template and prints how it ended, and which way it was started.

use std::process::ExitCode;

use spawn_template::{Command, Error, Template, Via};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spawn: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let echo = Template::open("/bin/echo")?;

    let mut command = Command::new(&echo);
    command.args(["hello", "from", "a", "template"]);
    for _ in 0..2 {
        let mut child = command.spawn()?;
        println!("process {} ended: {} ({})", child.id(), child.wait()?, child.via());
    }

    if echo.via() == Via::Template {
        let stats = echo.stats()?;
        println!("{}: {} started, {} failed", stats.path.display(), stats.spawns, stats.failures);
    }
    Ok(())
}

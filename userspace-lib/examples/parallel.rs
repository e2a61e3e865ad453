//! Runs a list of tools, a few at a time, and prints what each says: how an agent or a build tool starts its helpers.
//!
//! `parallel [JOBS]` runs its own list; every program is a template after its first start,
//! if the kernel has templates.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, thread};

use spawn_template::{Command, Error, cache};

const TOOLS: &[&[&str]] = &[
    &["echo", "one"],
    &["head", "-n", "1", "/etc/passwd"],
    &["wc", "-c", "/etc/passwd"],
    &["stat", "-c", "%F", "/"],
    &["echo", "two"],
    &["sh", "-c", "echo from the shell; exit 3"],
    &["grep", "-c", "root", "/etc/passwd"],
    &["no-such-tool"],
];

fn main() -> ExitCode {
    let jobs = match env::args().nth(1).map(|jobs| jobs.parse()) {
        None => 4,
        Some(Ok(jobs)) => jobs,
        Some(Err(error)) => {
            eprintln!("parallel: the number of jobs: {error}");
            return ExitCode::FAILURE;
        }
    };
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(tool) = TOOLS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match run(tool) {
                        Ok(line) => println!("{line}"),
                        Err(error) => println!("{error}"),
                    }
                }
            });
        }
    });
    println!("{} templates", cache::len());
    ExitCode::SUCCESS
}

/// Runs one tool and says how it went, in one line.
fn run(tool: &[&str]) -> Result<String, Error> {
    let [program, args @ ..] = tool else { return Ok("nothing to run".into()) };
    let output = Command::new(program).args(args).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(format!("{}: {}: {}", tool.join(" "), output.status, text.trim_end()))
}
